"""A set of images from a folder, an image list or a map-style Dataset: one class to read them all."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from lightning_ood.data.files import find_files, relative
from lightning_ood.data.images import ImageError, bad_image, load_image, to_image
from lightning_ood.data.labels import NONE, class_names, known, plain_label, stored_labels, to_number
from lightning_ood.data.workers import share
from lightning_ood.errors import InputError

Transform = Callable[[Image.Image], Tensor]
BadImages = Literal["error", "skip"]


class Item(NamedTuple):
    """One image: ``[3, H, W]`` after preprocessing, None if it could not be read; label, -1 for none; position."""

    image: Tensor | None
    label: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which is not used


class Batch(NamedTuple):
    """What a loader yields. B counts the images that could be read; it is zero if none could.

    Attributes:
        image: ``[B, 3, H, W]`` float32.
        label: ``[B]`` int64, -1 where there is none.
        index: ``[B]`` int64, position in the set.
        skipped: ``[S]`` int64, positions of the images that could not be read.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]
    skipped: Tensor


def collate(items: Sequence[Item]) -> Batch:
    """Stacks items; those that could not be read are left out and listed in ``skipped``.

    Raises:
        InputError: if the images differ in size.
    """
    images = [item.image for item in items if item.image is not None]
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise InputError(
            f"images of different sizes in one batch, {sorted(shapes)}: the model's preprocessing must resize or crop"
        )
    read = [item for item in items if item.image is not None]
    batch = Batch(
        image=torch.stack(images) if images else torch.empty(0, 3, 0, 0),
        label=torch.tensor([item.label for item in read], dtype=torch.int64),
        index=torch.tensor([item.index for item in read], dtype=torch.int64),
        skipped=torch.tensor([item.index for item in items if item.image is None], dtype=torch.int64),
    )
    return share(batch)


class ImageSet(Dataset[Item]):
    """A set of images; ``self[i]`` is an :class:`Item`.

    Attributes:
        name: how messages call it.
        labels: ``[N]`` int64, -1 where an image has none; None if none has one, or if only decoding would tell.
        classes: names of the classes in the order of the labels, or None.
        paths: of each image, relative to the root where it lies below it; None for images that are no files.
        labelled: whether labels are read; those of an OOD set are not, and every label is -1.
        upright: whether images are turned as their EXIF orientation says.
        unreadable: positions whose label could not be read, since the image could not be.
        notice: a sentence that warns the user about the set; empty if there is none.
        whole: the set that this one is a part of; itself where it is none.
    """

    def __init__(
        self, name: str, labels: Tensor | None, classes: list[str] | None, paths: Sequence[str | None]
    ) -> None:
        self.name = name
        self.labels = labels
        self.classes = classes
        self.paths = paths
        self.transform: Transform | None = None
        self.bad_images: BadImages = "error"
        self.labelled = True
        self.upright = False
        self.unreadable: frozenset[int] = frozenset()
        self.notice = ""
        self._whole: ImageSet | None = None
        self._positions: Tensor | None = None  # [N] in the whole set

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def files(self) -> Sequence[str | None]:
        """Paths of the files that hold the images; None where one is no file of its own."""
        return self.paths

    def __getitem__(self, index: int) -> Item:
        """Reads and preprocesses an image.

        Raises:
            ImageError: if it cannot be read and ``bad_images`` is "error".
            InputError: if the data set gives something that is no image or no label.
        """
        if self.transform is None:
            raise RuntimeError(f"{self.name}: set a transform before reading images")
        try:
            image, label = self.read(index)
        except ImageError:
            if self.bad_images == "error":
                raise
            return Item(None, -1, index)
        return Item(self.transform(image), label, index)

    @abstractmethod
    def read(self, index: int) -> tuple[Image.Image, int]:
        """Returns the RGB image and its label (-1 for none)."""

    def pixels(self, index: int) -> tuple[bytes, tuple[int, int] | None]:
        """Returns the bytes of an image's pixels and its ``(width, height)``; both are equal for equal images."""
        image = self.read(index)[0]
        return image.tobytes(), image.size

    def number_by(self, classes: list[str]) -> None:
        """Numbers the labels by the names of all classes, where the set has some of them alone; changes no other set.

        The default does nothing: only the names of folders are known to be those of their images' classes.
        """

    def using(self, transform: Transform) -> ImageSet:
        """Returns a copy of the set with another transform."""
        other = copy.copy(self)
        other.transform = transform
        return other

    @property
    def whole(self) -> ImageSet:
        """The set that this one is a part of; itself where it is none."""
        return self._whole or self

    def position(self, index: int) -> int:
        """Returns the position of an image in the whole set."""
        return int(index if self._positions is None else self._positions[index])

    def subset(self, positions: Tensor) -> ImageSet:
        """Returns a set of the images at ``positions`` ``[N]`` alone, whose positions count from 0 again."""
        other = copy.copy(self)
        other._whole, other._positions = self.whole, torch.tensor([self.position(i) for i in positions.tolist()])
        other._keep(positions)
        return other

    def _keep(self, positions: Tensor) -> None:
        """Drops what is stored of all images but those at ``positions``."""
        chosen = positions.tolist()
        self.paths = [self.paths[i] for i in chosen]
        self.labels = None if self.labels is None else known(self.labels[positions])
        self.unreadable = frozenset(new for new, old in enumerate(chosen) if old in self.unreadable)


class FileSet(ImageSet):
    """Image files, from a folder or a list."""

    def __init__(self, path: Path, root: Path, start: Path | None = None, labelled: bool = True) -> None:
        found = find_files(path, root, start)
        labels = torch.tensor(found.labels, dtype=torch.int64)
        classes = found.classes if labelled else None
        paths = [relative(p, root) for p in found.files]
        super().__init__(relative(path, root), known(labels) if labelled else None, classes, paths)
        self.root, self.labelled = root, labelled
        self.notice = found.notice
        self._labels = labels

    def _keep(self, positions: Tensor) -> None:
        super()._keep(positions)
        self._labels = self._labels[positions]

    def number_by(self, classes: list[str]) -> None:
        """Numbers the labels by the names of all classes, where the class folders are a part of them."""
        if not self.classes or not set(self.classes) < set(classes):
            return
        numbers = torch.tensor([*(classes.index(name) for name in self.classes), NONE])
        self._labels = numbers[self._labels]  # -1 stays: it is the last of them
        self.labels, self.classes = known(self._labels), classes

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Decodes a file; an absolute path stays as it is."""
        image = load_image(self.root / str(self.paths[index]), self.upright)
        return image, int(self._labels[index]) if self.labelled else NONE


class WrappedSet(ImageSet):
    """Any map-style Dataset of images or of (image, label, …)."""

    def __init__(self, dataset: Dataset, labelled: bool = True) -> None:
        name = type(dataset).__name__
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise InputError(f"{name} is not map-style: a data set needs __len__ and __getitem__")
        size = len(dataset)
        if size == 0:
            raise InputError(f"{name} is empty")
        labels, classes = (stored_labels(dataset, size), class_names(dataset)) if labelled else (None, None)
        super().__init__(name, labels, classes, [None] * size)
        self.dataset, self.labelled = dataset, labelled

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Takes an item of the dataset apart."""
        where = f"{self.name}[{self.position(index)}]"
        image, label = self._item(index)
        try:
            return to_image(image, self.upright, where), self._number(label, index) if self.labelled else NONE
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        except ValueError as error:  # pixels of unknown range
            raise bad_image(where, error) from error

    def item_label(self, index: int) -> int | str:
        """Returns the label that an item gives, -1 for none, or the name of its class; decodes no image itself."""
        label = self._item(index, decode=False)[1]
        try:
            return plain_label(label)
        except InputError as error:
            raise InputError(f"{self.name}[{self.position(index)}]: {error}") from error

    def _item(self, index: int, decode: bool = True) -> tuple[Any, Any]:
        index = self.position(index)
        try:
            item = self.dataset[index]
            image, label = (item[0], item[1]) if isinstance(item, (tuple, list)) and len(item) > 1 else (item, None)
            if decode and isinstance(image, Image.Image):
                image.load()
        except InputError:
            raise
        except (OSError, SyntaxError) as error:
            raise bad_image(f"{self.name}[{index}]", error) from error
        return image, label

    def _number(self, label: Any, index: int) -> int:
        """Returns an item's label; checks that the dataset stores the same one beside the image."""
        number = to_number(plain_label(label), self.classes)
        stored = number if self.labels is None else int(self.labels[index])
        if NONE not in (number, stored) and number != stored:
            raise InputError(f"its label is {number}, and the data set stores {stored} beside it; give it one label")
        return stored if number == NONE else number
