"""Names of detectors and sets that drawing, file systems or W&B would read as something else."""

import pandas as pd
import pytest
from PIL import Image

from lightning_ood.ops.files import file_name
from lightning_ood.report import summarise
from lightning_ood.report.mistakes import write_mistakes
from lightning_ood.report.plots import write_pictures
from tests.helpers.scores import make_scores

DETECTORS = ["nap", "NAP", "a b", "a_b", "a/b", "$x$", r"$\frac$", "é", "e\u0301", "_hidden", "x" * 300, "../up"]
SETS = [(r"$\sum$", "near"), ("_set", "far"), ("fünf=5", "far")]


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    return make_scores(DETECTORS, SETS, n_id=20, n_ood=12)


def test_every_picture_is_drawn_and_is_whole(scores, tmp_path):
    summaries = {"$x$": {"block": r"$\b$", r"ratio.$\b$": 2.0, "ratio.c": 1.0}}
    summaries["$x$"]["contributions"] = {name: [1.0, 2.0, 3.0] for name in ("at", "low", "middle", "high")}
    paths = write_pictures(scores, summarise(scores), tmp_path, summaries)
    assert {"auroc", "histograms", "roc", "taken_for", "classes", "blocks", "contributions"} <= {p.stem for p in paths}
    for path in paths:
        Image.open(path).load()


def test_no_two_detectors_share_a_picture(scores, tmp_path, monkeypatch):
    paths, _ = write_mistakes(scores, tmp_path, lambda *_: Image.new("RGB", (8, 8)))
    names = [path.name for path in paths]
    assert len({name.lower() for name in names}) == len(names) == len(DETECTORS)
    assert names[0] == "mistakes-nap.png" and names[3] == "mistakes-a_b.png", "ordinary names stay"
    assert all(path.parent == tmp_path and len(path.name) < 120 for path in paths)
    assert file_name("NAP") == file_name("NAP") != file_name("nap")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning_ood.report.mistakes._encoded", lambda *_: {})
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space"):
        write_mistakes(scores, tmp_path, lambda *_: Image.new("RGB", (9, 9)))
    assert [path.name for path in tmp_path.iterdir()] == ["mistakes.json"], "nothing that is not whole"
