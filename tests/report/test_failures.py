"""What the pictures of failures show: read off the figures, and counted by hand."""

import numpy as np
import pytest
from PIL import Image

from lightning_ood.errors import InputError
from lightning_ood.report.failures import MOST, class_failures, class_names, taken_for
from lightning_ood.report.mistakes import COUNT, read_thumbnails, reader, thumbnails, write_mistakes
from tests.helpers.scores import make_scores


@pytest.fixture
def named(scores):
    """The ID images lie in folders of their classes."""
    is_id = scores["role"] == "id"
    folder = "set/class_" + scores["label"].astype("Int64").astype("string") + "/" + scores["path"]
    return scores.assign(path=scores["path"].where(~is_id, folder))


def written(axes, row, column):
    return next(text.get_text() for text in axes.texts if text.get_position() == (column, row))


def test_class_names(scores, named):
    assert class_names(scores)[3] == "3"
    assert class_names(named)[3] == "class_3"
    assert class_names(scores.assign(path="set/" + scores["path"]))[3] == "3"  # one folder for all
    words = [f"word {i}" for i in range(10)]
    assert class_names(scores, words)[3] == class_names(named, words)[3] == "word 3"


def test_taken_for(named):
    (axes,) = taken_for(named).axes
    rows = [label.get_text() for label in axes.get_yticklabels()]
    columns = [label.get_text() for label in axes.get_xticklabels()]
    assert rows == ["ID", "eights", "photos", "textures"]
    photos = named[named["dataset"] == "photos"]
    share = 100 * (photos["prediction"] == 4).mean()
    assert written(axes, 2, columns.index("class_4")) == f"{share:.0f}"


def test_class_failures(named):
    left, right = class_failures(named).axes
    columns = [label.get_text() for label in left.get_xticklabels()]
    row = [label.get_text() for label in left.get_yticklabels()].index("nap")
    known, ood = named[named["role"] == "id"], named[named["role"] == "ood"]
    threshold = np.sort(known["nap"])[60 - 57]
    accepted = ood.loc[ood["prediction"] == 2, "nap"] >= threshold
    assert written(left, row, columns.index("class_2")) == f"{100 * accepted.mean():.0f}"
    lost = known.loc[known["label"] == 2, "nap"] < threshold
    assert written(right, row, columns.index("class_2")) == f"{100 * lost.mean():.0f}"


def test_of_many_classes_the_most_frequent_are_shown():
    scores = make_scores(["msp"], [("far", "far")], n_id=2000, n_ood=900)
    rare = np.arange(len(scores)) % 300 + 10
    scores["prediction"] = np.where(np.arange(len(scores)) % 3 == 0, rare, scores["prediction"])
    for figure in (taken_for(scores), class_failures(scores)):
        columns = [label.get_text() for label in figure.axes[0].get_xticklabels()]
        assert len(columns) == MOST
        assert {str(i) for i in range(10)} <= set(columns)


def test_worst_mistakes(named, tmp_path):
    asked = []

    def read(dataset, index, path):
        asked.append((dataset, index, path))
        return Image.new("RGB", (32, 32), (255, 0, 0) if dataset == "digits" else (0, 0, 255))

    (tmp_path / "mistakes-gone.png").touch()
    paths, note = write_mistakes(named, tmp_path, read)
    assert [path.name for path in paths] == [f"mistakes-{name}.png" for name in ("msp", "energy", "nap")]
    assert note == ""
    assert sorted(tmp_path.iterdir()) == sorted([*paths, tmp_path / "mistakes.json"])
    stored = read_thumbnails(tmp_path)
    assert set(stored) == {f"{dataset}/{index}" for dataset, index, _ in asked}
    assert all(image.startswith(("data:image/webp;", "data:image/jpeg;")) for image in stored.values())
    assert len(asked) == len(set(asked))  # each image once, whatever number of detectors
    worst = named[named["role"] == "id"].nsmallest(COUNT, "nap")
    assert {*zip(worst["dataset"], worst["index"], worst["path"], strict=True)} <= set(asked)
    pixels = np.asarray(Image.open(paths[2]))
    blue, red = ((pixels == colour).all(axis=2).nonzero()[0] for colour in ((0, 0, 255), (255, 0, 0)))
    assert len(blue) == len(red) == COUNT * 96 * 96
    assert blue.max() < red.min()  # OOD above


def test_images_that_cannot_be_read(named, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")

    class OneSet:
        def read(self, index):
            return Image.new("RGB", (40, 80)), 0

    by_path = reader(tmp_path)
    assert by_path("digits", 0, "0.png").size == (8, 8)
    with pytest.raises(InputError, match="photos: its images are not files"):
        by_path("photos", 3, None)
    paths, note = write_mistakes(named, tmp_path / "report", reader(tmp_path, {"photos": OneSet()}))
    assert len(paths) == 3
    assert "cannot read this image" in note or "not files" in note
    before = {path: path.read_bytes() for path in paths}
    again, note = write_mistakes(named.drop(columns="msp"), tmp_path / "report", by_path)
    assert note == ""
    assert {path: path.read_bytes() for path in again} == {path: before[path] for path in paths[1:]}  # kept
    assert write_mistakes(named, tmp_path / "other", None) == ([], "the images are not available")


def test_a_thumbnail_of_an_image_that_is_all_length(named):
    for size in ((1, 30000), (30000, 1)):
        found, _ = thumbnails(named.head(1), lambda *_, size=size: Image.new("RGB", size))
        assert sorted(found[0].size) == [1, 96]
