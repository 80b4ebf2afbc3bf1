import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from lightning_ood.report import accuracy, summarise, write_report
from lightning_ood.report.page import render_page, split_summary

VOID = {"meta", "input", "img", "link"}


class Page(HTMLParser):
    """Checks that tags are closed in order; collects text, rows and pictures."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.pictures, self.links = [], [], "", [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        attributes = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if "src" in attributes:
            self.pictures.append(attributes["src"])
        if tag == "a":
            self.links.append(attributes["href"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def check_picture(file):
    picture = Image.open(file)
    assert min(picture.size) > 150
    assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    return picture.size


def test_report(scores, tmp_path):
    scores = scores.rename(columns={"nap": "<b>nap</b>"})
    metrics = summarise(scores)
    summaries = {"<b>nap</b>": {"block": "last", "ratio.layer1.0": 0.94, "ratio.last": 1.15}, "msp": {}}
    paths = write_report(
        tmp_path, scores, metrics, accuracy=accuracy(scores), summaries=summaries, config="a: '<script>'"
    )
    names = ["auroc", "fpr95", "histograms", "roc", "taken_for", "classes", "blocks"]
    assert [path.name for path in paths] == [*(f"{name}.png" for name in names), "index.html"]
    assert {path.parent for path in paths} == {tmp_path / "report"}
    page = Page(paths[-1].read_text())
    assert page.tags.count("script") == 1
    assert "b" not in page.tags
    for text in (
        "<b>nap</b>",
        "energy",
        "msp",
        "a: '<script>'",
        "accuracy 90.0 %",
        "lightning_ood",
        "torch",
        "layer1.0",
    ):
        assert text in page.text
    assert page.tags.count("tr") >= 1 + len(metrics) + 2
    for path, source in zip(paths[:-1], page.pictures, strict=True):
        assert check_picture(path) == check_picture(io.BytesIO(base64.b64decode(source.split(",")[1])))
    assert "default-src 'none'" in paths[-1].read_text()  # a browser loads nothing from elsewhere
    assert all(link.startswith("#") for link in page.links)


@pytest.mark.slow
def test_thirty_detectors_and_eight_sets(wide, tmp_path):
    paths = write_report(tmp_path, wide, summarise(wide))
    for path in paths[:-1]:
        assert max(check_picture(path)) < 4000
    page = Page(paths[-1].read_text())
    assert all(name in page.text for name in wide.columns[7:])


@pytest.mark.parametrize("value", [0.0, -1e30, 1e30])
def test_constant_and_huge_scores_can_be_drawn(scores, value, tmp_path):
    scores = scores.assign(msp=np.where(scores.index % 2, value, value * 2), energy=value)
    metrics = summarise(scores)
    assert (metrics.loc[metrics["detector"] == "energy", "auroc"] == 50).all()
    assert len(write_report(tmp_path, scores, metrics)) == 7


def test_a_summary_in_facts_and_charts():
    facts, charts = split_summary(
        {
            "block": "layer2.1",
            "ratio.layer1.0": 0.9,
            "ratio.layer2.1": 1.1,
            "ratio.last": 1.0,
            "base.c": 1.0,
            "base.p": 90,
        }
    )
    assert facts == [("block", "layer2.1"), ("base.c", "1"), ("base.p", "90")]
    ((name, items),) = charts.items()
    assert name == "ratio"
    assert [(item, chosen) for item, _, _, chosen in items] == [
        ("layer1.0", False),
        ("layer2.1", True),
        ("last", False),
    ]
    assert [place for _, _, place, _ in items] == pytest.approx([0, 100, 50])
    _, charts = split_summary({"norm.block": "b", "norm.ratio.a": 1.0, "norm.ratio.b": 2.0, "curve.a": {"at": [1.0]}})
    assert charts == {"norm.ratio": [("a", 1.0, 0.0, False), ("b", 2.0, 100.0, True)]}


def test_no_empty_panel_is_left(scores):
    from lightning_ood.report.drawing import panels_of

    figure, panels = panels_of([f"d{i}" for i in range(7)], "score")
    assert len(figure.axes) == len(list(panels)) == 7


def test_page_says_what_a_detector_costs(scores):
    costs = {"msp": {"fit": 0, "test": 0}, "energy": {"fit": 0, "test": 1}, "nap": {"fit": 2, "test": 0}}
    rows = [row.split("</tr>")[0] for row in render_page(summarise(scores), [], costs=costs).split("<tr")]
    of = {name: [row for row in rows if f'<td class="text">{name}</td>' in row] for name in costs}
    for name, cost in costs.items():
        for row in of[name]:
            assert re.findall(r">(\d)</td>", row)[-2:] == [str(cost["fit"]), str(cost["test"])]
    assert "extra forwards" not in render_page(summarise(scores), [])


def test_the_page_says_which_aupr_it_holds(scores):
    assert "AUPR is average precision; OpenOOD integrates the curve by trapezoids" in render_page(summarise(scores), [])
