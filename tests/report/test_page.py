import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from lightning_ood.report import RunResults, summarise, write_report
from lightning_ood.report.mistakes import read_thumbnails, write_mistakes
from lightning_ood.report.page import render_page
from lightning_ood.report.page_data import curves, facts, page_data
from tests.helpers.scores import make_scores

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
        if "script" not in self.open:
            self.text += data
        elif "application/json" in self.get_starttag_text():
            self.data = json.loads(data)


def check_picture(file):
    picture = Image.open(file)
    assert min(picture.size) > 150
    assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
    return picture.size


def test_report(scores, tmp_path):
    scores = scores.rename(columns={"nap": "<b>nap</b>"})
    summaries = {"<b>nap</b>": {"block": "last", "ratio.layer1.0": 0.94, "ratio.last": 1.15}, "msp": {}}
    paths = write_report(RunResults(scores, summaries=summaries, config="a: '<script>'"), tmp_path)
    names = ["auroc", "fpr95", "histograms", "roc", "taken_for", "classes", "blocks"]
    assert [path.name for path in paths] == [*(f"{name}.png" for name in names), "index.html"]
    assert {path.parent for path in paths} == {tmp_path / "report"}
    page = Page(paths[-1].read_text())
    assert page.tags.count("script") == 2  # the data and the code
    for text in ("<b>nap</b>", "energy", "msp", "a: '<script>'", "accuracy 90.0 %", "lightning_ood", "torch"):
        assert text in page.text
    assert page.data["names"] and set(page.data["detectors"]) == {"<b>nap</b>", "energy", "msp"}
    assert page.data["fits"]["<b>nap</b>"]["charts"]["ratio"] == [["layer1.0", 0.94, False], ["last", 1.15, True]]
    assert page.pictures == []  # drawn in the browser
    for path in paths[:-1]:
        check_picture(path)
    assert "default-src 'none'" in paths[-1].read_text()  # a browser loads nothing from elsewhere
    assert all(link.startswith("#") for link in page.links)


def test_names_are_text_wherever_they_stand(scores):
    """Names with HTML in them reach the page as text: in its tables, and in the data that its script reads."""
    name = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    hostile = scores.rename(columns={"nap": name}).replace({"dataset": {"photos": "<i>photos</i>"}})
    results = RunResults(hostile, doubts={name: ["<u>claim</u>"]}, summaries={name: {"<a>": "<a>"}})
    text = render_page(results, page_data(hostile, {}))
    page = Page(text)
    assert page.tags.count("script") == 2 and not {"img", "u"} & set(page.tags)
    assert name in page.data["names"] and "<i>photos</i>" in page.data["sets"]
    assert name in page.text and "<i>photos</i>" in page.text


@pytest.mark.slow
def test_thirty_detectors_and_eight_sets(wide, tmp_path):
    paths = write_report(RunResults(wide), tmp_path)
    for path in paths[:-1]:
        assert max(check_picture(path)) < 4000
    page = Page(paths[-1].read_text())
    assert all(name in page.text for name in wide.columns[7:])


def test_36_detectors_and_four_sets_stay_below_5_mb(tmp_path):
    sets = [(f"set_{s}", "near" if s < 2 else "far") for s in range(4)]
    scores = make_scores([f"detector_{k}" for k in range(36)], sets, n_id=1000, n_ood=500)
    noise = (
        np.random.default_rng(0).integers(0, 255, (96, 96, 3)).astype(np.uint8)
    )  # compresses worse than any photograph
    read = lambda name, index, path: Image.fromarray(np.roll(noise, index, axis=0))  # noqa: E731
    folder = tmp_path / "report"
    _, note = write_mistakes(scores, folder, read)
    images = read_thumbnails(folder)
    text = render_page(RunResults(scores), page_data(scores, images))
    assert note == "" and len(images) > 300
    assert len(text.encode()) < 5_000_000
    found = Page(text).data
    shown = {entry[0] for detector in found["detectors"].values() for _, part in detector["mistakes"] for entry in part}
    assert shown == set(found["images"])


def test_curves_hold_the_numbers_of_the_table(scores):
    """The point of a curve where 95 % of the ID images are kept has the FPR95 of metrics.csv."""
    metrics = summarise(scores).set_index(["detector", "dataset"])
    data = page_data(scores, {})
    assert data["sets"] == ["eights", "photos", "textures"]
    for name, found in data["detectors"].items():
        at = found["curves"]["at"].index(found["cut"])
        kept = [shares[at] for shares in found["curves"]["kept"]]
        assert kept[0] == 9500
        for dataset, share in zip(data["sets"], kept[1:], strict=True):
            assert share / 100 == pytest.approx(metrics.loc[(name, dataset), "fpr95"], abs=0.01)
        assert [sum(shares) for shares in found["histogram"]["shares"]] == pytest.approx([10000] * 4, abs=25)
        for _, mistakes in found["mistakes"]:
            assert len(mistakes) == 10
    values = {"": np.array([0.0, 1.0, 1.0, 2.0]), "far": np.array([-1.0, 1.0])}
    assert curves(values) == {"at": [-1.0, 0.0, 1.0, 2.0], "kept": [[10000, 10000, 7500, 2500], [10000, 5000, 5000, 0]]}


@pytest.mark.parametrize("value", [0.0, -1e30, 1e30])
def test_constant_and_huge_scores_can_be_drawn(scores, value, tmp_path):
    scores = scores.assign(msp=np.where(scores.index % 2, value, value * 2), energy=value)
    results = RunResults(scores)
    assert (results.metrics.loc[results.metrics["detector"] == "energy", "auroc"] == 50).all()
    assert len(write_report(results, tmp_path)) == 7


def test_a_summary_in_facts_charts_and_curves():
    told, charts, drawn = facts(
        {"block": "layer2.1", "ratio.layer1.0": 0.9, "ratio.layer2.1": 1.1, "ratio.last": 1.0, "base.c": 1.0}
    )
    assert told == [("block", "layer2.1"), ("base.c", "1")]
    assert charts == {"ratio": [("layer1.0", 0.9, False), ("layer2.1", 1.1, True), ("last", 1.0, False)]}
    assert drawn == {}
    curve = {"at": [0.0, float("inf")], "low": [1.0], "middle": [2.0], "high": [3.0]}
    _, charts, drawn = facts({"norm.block": "b", "norm.ratio.a": 1.0, "norm.ratio.b": 2.0, "coverage.pooled": curve})
    assert charts == {"norm.ratio": [("a", 1.0, False), ("b", 2.0, True)]}
    assert drawn == {"coverage.pooled": {"at": [0.0, None], "low": [1.0], "middle": [2.0], "high": [3.0]}}


def test_median_and_spread_of_members_are_no_chart():
    told, charts, _ = facts({"nap.median": 1.7, "nap.iqr": 0.4, "knn.median": -0.2, "knn.iqr": 0.05})
    assert charts == {} and [key for key, _ in told] == ["nap.median", "nap.iqr", "knn.median", "knn.iqr"]


def test_no_empty_panel_is_left(scores):
    from lightning_ood.report.drawing import panels_of

    figure, panels = panels_of([f"d{i}" for i in range(7)], "score")
    assert len(figure.axes) == len(list(panels)) == 7


def rows_of_page(text):
    """Name of the detector -> its row of the table."""
    parts = [part.split("</tr>")[0] for part in text.split('<tr data-name="')[1:]]
    return {part.split('"')[0]: part for part in parts}


def test_page_says_what_a_detector_costs(scores):
    costs = {"msp": {"fit": 0, "test": 0}, "energy": {"fit": 0, "test": 1}, "nap": {"fit": 2, "test": 0}}
    rows = rows_of_page(render_page(RunResults(scores, costs=costs)))
    for name, cost in costs.items():
        assert re.findall(r'<td class="plain">(\d)</td>', rows[name]) == [str(cost["fit"]), str(cost["test"])]
    assert "extra fit" not in render_page(RunResults(scores))


def test_the_table_holds_the_best_mean_first_and_every_value(scores):
    metrics = summarise(scores)
    rows = rows_of_page(render_page(RunResults(scores)))
    sets = metrics[metrics["dataset"] != "mean"]
    means = sets.groupby("detector")["auroc"].mean().sort_values(ascending=False)
    assert list(rows) == list(means.index)
    for name, row in rows.items():
        values = [float(value) for value in re.findall(r"(\d+\.\d)</td>", row)]
        of = metrics[metrics["detector"] == name].set_index(["group", "dataset"])["auroc"]
        keys = [("near", "eights"), ("far", "mean"), ("far", "photos"), ("far", "textures")]
        assert values == [pytest.approx(v, abs=0.051) for v in (means[name], *(of[key] for key in keys))]


def test_the_answer_names_the_best_of_each_group_and_what_is_doubtful(scores):
    metrics = summarise(scores)
    page = render_page(RunResults(scores, doubts={"nap": ["it is doubtful"]}))
    answer = page.split('<section id="answer">')[1].split("</section>")[0]
    for group in ("near", "far"):
        part = next(block for block in answer.split("<h3>") if block.startswith(group))
        rows = metrics[(metrics["group"] == group) & (metrics["dataset"] == "mean")].sort_values("auroc")[::-1]
        assert re.findall(r'data-detector="(\w+)"', part) == list(rows["detector"])
        best = rows.iloc[0]
        assert f"{best['auroc_low']:.1f}\N{EN DASH}{best['auroc_high']:.1f}" in part
        near = int((rows["auroc"] >= best["auroc_low"]).sum()) - 1
        assert (f"{near} other detector" if near else "No other detector") in part
        assert part.count('class="doubt"') == 1


def test_the_page_says_which_aupr_it_holds(scores):
    assert "AUPR is average precision; OpenOOD integrates the curve by trapezoids" in render_page(RunResults(scores))
