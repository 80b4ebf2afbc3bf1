"""Names of classes for people: from a list beside the images, or the words of ImageNet's synsets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from lightning_ood.data.files import ImageList
from lightning_ood.data.specs import Spec
from lightning_ood.networks.synsets import synset_words

FILE = "classes.txt"  # beside the folder of class folders, or the image list


def class_words(classes: Sequence[str], sets: Iterable[Spec], root: Path) -> list[str]:
    """Returns each class in words; a class without any keeps its name, and words of two classes get the name behind.

    A line of ``classes.txt`` is the class's name, a space or tab, and words.

    Args:
        classes: names of the classes, as the folders are called.
        sets: where the images are; the first with ``classes.txt`` beside it counts.
        root: of the data.
    """
    words = synset_words(classes)
    for spec in sets:
        place = spec.list if isinstance(spec, ImageList) else spec
        file = (root / place).parent / FILE if isinstance(place, str) else None
        if file is not None and file.is_file():
            lines = (line.split(maxsplit=1) for line in file.read_text(encoding="utf-8").splitlines())
            words |= {parts[0]: parts[1].strip() for parts in lines if len(parts) == 2}
            break
    found = [words.get(name, name) for name in classes]
    times = Counter(found)
    return [word if times[word] == 1 else f"{word} ({name})" for word, name in zip(found, classes, strict=True)]
