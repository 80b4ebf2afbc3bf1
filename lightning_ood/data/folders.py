"""Lists the image files below a folder, and counts what is left out. Opens no file, so that nothing hangs."""

from __future__ import annotations

import errno
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from PIL import Image

from lightning_ood.errors import InputError

# Pillow names these formats and cannot decode them, or only with another program (Ghostscript).
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_SYSTEM = {"__MACOSX", "@eaDir", "@Recycle", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
_SYSTEM_FILES = {"Thumbs.db", "desktop.ini"}

Identity = tuple[int, int]  # device and inode of a folder


def image_endings() -> frozenset[str]:
    """Returns the endings that Pillow and its registered plugins can read, in lower case, as in ``.jpg``."""
    registered = Image.registered_extensions()
    return frozenset(e.lower() for e, kind in registered.items() if kind in Image.OPEN and kind not in _NOT_DECODED)


def ending(name: str) -> str:
    """Returns the ending of a file's name in lower case, as in ``.jpg``."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


@dataclass
class LeftOut:
    """The entries of a folder that are no images.

    Attributes:
        kinds: kind -> number of entries.
        examples: paths of the first few.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, kind: str, path: str) -> None:
        """Counts an entry."""
        self.kinds[kind] += 1
        if len(self.examples) < 3:
            self.examples.append(path)

    def __str__(self) -> str:
        """Returns a sentence for the user; empty where nothing was left out."""
        total = self.kinds.total()
        if not total:
            return ""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
        examples = ", ".join(self.examples) + (", …" if total > len(self.examples) else "")
        return f"left out, since Pillow cannot read such files as images: {kinds} ({examples})"


class Walk:
    """Lists folders; follows links, and leaves out hidden and system folders and files.

    Attributes:
        left_out: what was found and is no image.
    """

    def __init__(self) -> None:
        self.left_out = LeftOut()
        self._endings = image_endings()

    def entries(self, path: str | Path) -> tuple[list[str], list[str]]:
        """Returns the sorted names of the sub-folders and of the images in a folder.

        Raises:
            InputError: if the folder cannot be listed, or a link in it leads to itself.
        """
        folders: list[str] = []
        images: list[str] = []
        try:
            with os.scandir(path) as found:
                for entry in found:
                    if entry.name.startswith(".") or entry.name in _SYSTEM_FILES:
                        continue
                    kind = _kind(entry)
                    if kind == "folder":
                        folders += [] if entry.name in _SYSTEM else [entry.name]
                    elif kind == "file" and ending(entry.name) in self._endings:
                        images.append(entry.name)
                    else:
                        what = f"{ending(entry.name) or 'without an ending'}" if kind == "file" else kind
                        self.left_out.add(what, entry.path)
        except OSError as error:
            raise InputError(
                f"{error.filename or path}: cannot be read ({error.strerror}); make it readable, or take it out of "
                "the set"
            ) from error
        return sorted(folders), sorted(images)

    def below(self, path: Path) -> list[Path]:
        """Returns the images in a folder and its sub-folders, sorted by folder and name.

        Raises:
            InputError: if a folder cannot be listed, or a link leads back to a folder above it.
        """
        found: list[tuple[str, list[str]]] = []
        stack = [(str(path), _above(path))]
        while stack:
            folder, above = stack.pop()
            inside = _enter(folder, above)
            folders, images = self.entries(folder)
            found.append((folder, images))
            stack += [(os.path.join(folder, name), inside) for name in folders]  # noqa: PTH118  # as text: faster
        return [Path(folder, name) for folder, names in sorted(found) for name in names]


def _kind(entry: os.DirEntry[str]) -> str:
    """Tells folders and files from what must not be opened, such as a fifo, which waits for a writer."""
    try:
        mode = entry.stat().st_mode if entry.is_symlink() else None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"{entry.path}: this link leads to itself; take it out of the set") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return "dangling link"
        raise
    if S_ISDIR(mode) if mode is not None else entry.is_dir(follow_symlinks=False):
        return "folder"
    if S_ISREG(mode) if mode is not None else entry.is_file(follow_symlinks=False):
        return "file"
    return "fifo, socket or device"


def _above(path: Path) -> frozenset[Identity]:
    """Returns the identities of the folders above a path, and above the folder that it is a link to."""
    return frozenset(_identity(parent) for parent in (*path.absolute().parents, *path.resolve().parents))


def _enter(folder: str, above: frozenset[Identity]) -> frozenset[Identity]:
    """Adds a folder to those above.

    Raises:
        InputError: if it is one of them.
    """
    try:
        identity = _identity(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); make it readable") from error
    if identity in above:
        raise InputError(
            f"{folder}: this link leads to a folder above it, so that every image would count many times; take the "
            "link out of the set"
        )
    return above | {identity}


def _identity(folder: str | Path) -> Identity:
    status = os.stat(folder)  # noqa: PTH116
    return status.st_dev, status.st_ino
