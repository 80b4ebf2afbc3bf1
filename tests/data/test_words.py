"""Names of classes for people."""

from pathlib import Path

from lightning_ood.data.files import ImageList
from lightning_ood.data.words import class_words

SYNSETS = ["n01440764", "n02012849", "n03126707", "mine"]


def test_words_of_synsets_and_of_a_list_beside_the_folder(tmp_path: Path) -> None:
    assert class_words(SYNSETS, ("train",), tmp_path) == ["tench", "crane (n02012849)", "crane (n03126707)", "mine"]
    assert class_words(["0", "cat"], (object(),), tmp_path) == ["0", "cat"]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "classes.txt").write_text("n01440764 a fish\nn02012849\tcrane bird\nmine\n\n")
    found = ["a fish", "crane bird", "crane", "mine"]
    assert class_words(SYNSETS, ("images/train",), tmp_path) == found
    assert class_words(SYNSETS, ("train", ImageList("images/test.txt")), tmp_path) == found
