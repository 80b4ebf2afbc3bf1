import numpy as np
import pytest
import yaml

from lightning_ood.report import RunResults, summarise, write_report
from lightning_ood.report.environment import papers
from lightning_ood.report.fits import blocks, contributions, coverage

CURVE = {"at": [0.0, 0.5, 1.01, 1.2], "low": [0.0, 0.1, 0.0], "middle": [0.5, 0.2, 0.1], "high": [1.0, 0.3, 0.2]}
RANKS = {"at": [1.0, 2.0, 4.0], "low": [1.0, 0.5, -1.0], "middle": [2.0, 1.0, 0.0], "high": [3.0, 2.0, 1.0]}
SUMMARIES = {
    "nap": {"block": "last", "ratio.layer1.0": 0.94, "ratio.last": 1.15},
    "msp": {"block": "layer1.0"},
    "energy": {"coverage.pooled": CURVE, "of.coverage.layer1.0": CURVE, "contributions": RANKS, "clip": float("inf")},
}


def test_norm_ratio_beside_auroc(scores):
    metrics = summarise(scores)
    left, right = blocks(SUMMARIES, metrics).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["layer1.0", "last (chosen)"]
    assert left.collections[1].get_offsets().data.tolist() == [[0.94, 0], [1.15, 1]]
    of = metrics[metrics["dataset"] != "mean"].set_index("detector")["auroc"]
    drawn = {(place, round(value, 6)) for line in right.lines for value, place in zip(*line.get_data(), strict=True)}
    expected = {(0, round(v, 6)) for v in of["msp"]} | {(1, round(v, 6)) for v in of["nap"]}
    assert drawn == expected


def test_curves():
    titles = [axes.get_title() for axes in coverage(SUMMARIES).axes]
    assert titles == ["energy, pooled", "energy, of.layer1.0"]
    assert coverage(SUMMARIES).axes[0].patches[1].get_data().values.tolist() == CURVE["middle"]
    (axes,) = contributions(SUMMARIES).axes
    np.testing.assert_array_equal(axes.lines[0].get_data(), [RANKS["at"], RANKS["middle"]])
    assert blocks({}, None) is coverage({}) is contributions({}) is None


def test_a_report_from_scores_alone_knows_the_fits(scores, tmp_path):
    costs = {"nap": {"fit": 1, "test": 0}}
    results = RunResults(scores, summaries=SUMMARIES, costs=costs)
    results.save(tmp_path)
    first = write_report(results, tmp_path)
    page = first[-1].read_text()
    assert write_report(RunResults.load(tmp_path, scores), tmp_path) == first
    assert first[-1].read_text() == page
    assert {"blocks.png", "coverage.png", "contributions.png"} < {path.name for path in first}
    fewer = write_report(RunResults.load(tmp_path, scores.drop(columns="energy")), tmp_path)
    assert "coverage.png" not in {path.name for path in fewer}
    assert not (tmp_path / "report" / "coverage.png").exists()


@pytest.mark.parametrize("config", ["", "scoring: {detectors: {mine: {class_path: not_here.Mine}}}"])
def test_no_paper_is_made_up(config):
    assert papers(config, ["mine"]) == []


def test_papers_are_those_of_the_detectors_and_of_what_they_hold():
    react = {"class_path": "lightning_ood.detectors.react.ReAct", "init_args": {"base": None}}
    react["init_args"]["base"] = {"class_path": "lightning_ood.detectors.gen.GEN"}
    config = yaml.safe_dump({"scoring": {"detectors": {"react": react, "other": {"class_path": "a.B"}}}})
    found = dict(papers(config, ["react"]))
    assert any("ReAct" in title for title in found)
    assert any("GEN" in title for title in found)
    assert all(link.startswith("https://") for link in found.values())
