"""Finds the image files and labels of a folder or an image list, in an order that never changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lightning_ood.data.folders import LeftOut, Walk, ending, image_endings
from lightning_ood.data.labels import LARGEST
from lightning_ood.errors import InputError

HOW_ROOT = "set the root by `--data.root` or the environment variable LIGHTNING_OOD_DATA"


@dataclass
class ImageList:
    """An image list whose paths start from a folder of their own, as those of OpenOOD do.

    Attributes:
        list: the text file; a line is ``path label``, the label may be missing or -1.
        folder: where the paths in it start; like ``list`` relative to the root of the data.
        keep_size: an image that has the size of the network's input goes in as it is, without resize and crop.
    """

    list: str
    folder: str = "."
    keep_size: bool = False


class Files(NamedTuple):
    """Image files, their labels (-1 for none) and the names of the classes, where known."""

    files: list[Path]
    labels: list[int]
    classes: list[str] | None
    notice: str = ""  # about images that a list names more than once, and files that are left out


def find_files(path: Path, root: Path, start: Path | None = None) -> Files:
    """Lists a folder of class folders, a folder of images, or an image list ``*.txt``.

    Args:
        path: of the folder or list.
        root: of the data, for messages.
        start: where the paths in a list start; the root where None.

    Raises:
        InputError: if there is nothing, no image, an empty class, an unreadable line, an image with two labels or a
            missing file.
    """
    if path.is_dir() and start is None:
        return _folder(path)
    if path.is_file():
        if path.suffix.lower() != ".txt":
            raise InputError(f"{path}: a data set is a folder, or an image list that ends in .txt")
        if start is None:
            return _image_list(path, root, f"the root {root}, {HOW_ROOT}")
        if not start.is_dir():
            raise InputError(f"{path}: its images start from {start}, and there is no such folder; {HOW_ROOT}")
        return _image_list(path, start, f"the folder {start}, which `folder` names")
    kind = "image list" if path.suffix.lower() == ".txt" else "folder"
    raise InputError(f"{path}: no such {kind}; relative paths start from the root {root}, {HOW_ROOT}")


def relative(path: Path, root: Path) -> str:
    """Returns the path relative to the root if it is below it, else the absolute path; with forward slashes."""
    text, start = path.as_posix(), root.as_posix().rstrip("/") + "/"  # as text: ten times as fast, for a million images
    return text.removeprefix(start) if text.startswith(start) else path.absolute().as_posix()


def _folder(path: Path) -> Files:
    walk = Walk()
    classes, images = walk.entries(path)
    if not classes and not images:
        raise InputError(f"{path}: no images here and no class folders{_but(walk.left_out)}")
    if classes and images:
        raise InputError(
            f"{path}: holds both images ({images[0]}, …) and folders ({classes[0]}, …); a set is a folder of "
            "images or a folder of class folders"
        )
    if images:
        return Files([path / name for name in images], [-1] * len(images), None, _notice(path, walk.left_out))
    return _class_folders(path, classes, walk)


def _class_folders(path: Path, classes: list[str], walk: Walk) -> Files:
    """The order of torchvision's ``ImageFolder``: sorted classes, each walked to the bottom, sorted."""
    files: list[Path] = []
    labels: list[int] = []
    empty: list[str] = []
    for label, name in enumerate(classes):
        found = walk.below(path / name)
        files += found
        labels += [label] * len(found)
        if not found:
            empty.append(name)
    if not files:
        raise InputError(f"{path}: no images in its {len(classes)} folders{_but(walk.left_out)}")
    if empty:
        some = f"{_some(empty)}; fill or remove them"
        raise InputError(f"{path}: class folders without images: {some}{_but(walk.left_out)}")
    return Files(files, labels, classes, _notice(path, walk.left_out))


def _notice(path: Path, left_out: LeftOut) -> str:
    return f"{path}: {left_out}" if left_out.kinds else ""


def _but(left_out: LeftOut) -> str:
    return f"; {left_out}" if left_out.kinds else ""


def _image_list(path: Path, start: Path, where_from: str) -> Files:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8 ({error.reason})") from error
    endings = image_endings()
    named: list[tuple[int, str, int]] = []  # line, path, label
    for number, line in enumerate(lines, start=1):
        if line.strip():
            named.append((number, *_parse(line.strip(), endings, f"{path}, line {number}")))
    if not named:
        raise InputError(f"{path}: the image list is empty")
    repeated = _repeated(named, path)
    files = [start / name for _, name, _ in named]
    missing = [i for i, file in enumerate(files) if not file.is_file()]
    if missing:
        some = _some([str(files[i]) for i in missing])
        raise InputError(
            f"{path}, line {named[missing[0]][0]}: {len(missing)} of {len(files)} files are missing: {some}; the paths "
            f"in this list start from {where_from}"
        )
    return Files(files, [label for _, _, label in named], None, repeated)


def _repeated(named: list[tuple[int, str, int]], path: Path) -> str:
    """Returns a notice about duplicate images in a list; each line counts as one image, as in published results.

    Raises:
        InputError: if an image has two labels.
    """
    first: dict[str, tuple[int, int]] = {}
    again: list[tuple[int, str]] = []
    for number, name, label in named:
        line, known = first.setdefault(name, (number, label))
        if known != label:
            raise InputError(
                f"{path}, line {number}: {name} has the label {label} here and {known} in line {line}; an image has one"
            )
        if line != number:
            again.append((number, name))
    if not again:
        return ""
    number, name = again[0]
    return (
        f"{path} names {len(again)} of its {len(named)} images a second time ({name} in lines {first[name][0]} and "
        f"{number}); each line counts as an image"
    )


def _parse(line: str, endings: frozenset[str], where: str) -> tuple[str, int]:
    """``path label``; a path may hold blanks, so a line that ends like an image has no label."""
    if ending(line) in endings:
        return line, -1
    name, _, word = line.replace("\t", " ").rpartition(" ")
    try:
        label = int(word)
    except ValueError:
        label = -2
    if label < -1 or not name.strip():
        raise InputError(f"{where}: cannot read `{line}`; a line is `path label`, the label an integer from 0, or -1")
    if label > LARGEST:
        raise InputError(f"{where}: the label is {label}; labels count classes from 0, and end at {LARGEST}")
    return line[: len(name)].strip(), label


def _some(names: list[str], count: int = 3) -> str:
    """Joins the first few names and gives the total count."""
    return ", ".join(names[:count]) + (f", … ({len(names)} in all)" if len(names) > count else "")
