"""Image sets in the forms that people have them, read in order as batches of preprocessed images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_ood.data.labels import NONE, stored_labels
from lightning_ood.data.opening import open_set
from lightning_ood.data.rows import RowSet
from lightning_ood.data.sets import Batch, collate
from lightning_ood.data.workers import start_worker
from lightning_ood.errors import InputError, context
from lightning_ood.networks.preprocess import Transform

Unpack = Callable[[Any], tuple[Tensor, Tensor | None]]
_IMAGES = ("pixel_values", "image", "images", "x")  # keys of batches that are mappings
_LABELS = ("labels", "label", "target", "targets", "y")


def images_and_labels(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Takes a batch apart: ``images``, ``(images, labels, …)`` or a mapping such as ``{"pixel_values", "labels"}``.

    Returns:
        ``[B, 3, H, W]``, and ``[B]`` where there are labels.

    Raises:
        InputError: if a mapping has no images under one of the usual keys.
    """
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, Mapping):
        images = next((batch[key] for key in _IMAGES if key in batch), None)
        if images is None:
            raise InputError(f"a batch has {', '.join(map(str, batch))}: name its images {_IMAGES[0]!r}")
        return images, next((batch[key] for key in _LABELS if key in batch), None)
    return batch[0], batch[1] if len(batch) > 1 else None


@dataclass(frozen=True)
class Form:
    """What an item of a set is.

    Attributes:
        dimensions: of an item, as the network takes it.
        wanted: how messages describe a batch.
        arrays: how they describe the arrays that can be given.
    """

    dimensions: int
    wanted: str
    arrays: str


IMAGES = Form(3, "preprocessed images, floats [B, 3, H, W]", "[N, 3, H, W] of floats or [N, H, W, 3] of uint8")
ROWS = Form(1, "rows of features, floats [B, D]", "[N, D] of floats, the penultimate features")


@dataclass(frozen=True)
class Images:
    """A set of images that is read in order.

    Attributes:
        name: how messages call it.
        loader: a DataLoader in order, or another iterable of batches.
        labels: ``[N]`` int64, those of the whole set where they are known before it is read; else None.
        paths: of each image, None for those that are no files; empty where none is.
        unpack: takes a batch apart.
        form: what an item is.
    """

    name: str
    loader: Any
    labels: Tensor | None
    paths: Sequence[str | None]
    unpack: Unpack
    form: Form

    def __len__(self) -> int:
        """Number of batches; 0 where it is not known."""
        try:
            return len(self.loader)
        except TypeError:
            return 0

    def batches(self, labelled: bool = True) -> Iterator[Batch]:
        """Yields the batches; every label is -1 where there are none or ``labelled`` is false.

        Raises:
            InputError: if a batch holds no items of this form; names the set.
        """
        seen = 0
        for batch in self.loader:
            if not isinstance(batch, Batch):
                with context(self.name):
                    batch = _batch(*self.unpack(batch), seen, self.form)
            seen = int(batch.index[-1]) + 1 if len(batch.index) else seen
            yield batch if labelled else batch._replace(label=torch.full_like(batch.label, NONE))


def _batch(images: Any, labels: Any, start: int, form: Form) -> Batch:
    if not isinstance(images, Tensor) or images.ndim != form.dimensions + 1 or not images.is_floating_point():
        given = f"{images.dtype} {list(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"a batch has {given} in place of {form.wanted}")
    count = len(images)
    label = torch.full((count,), NONE) if labels is None else torch.as_tensor(labels).to("cpu", torch.int64).reshape(-1)
    if len(label) != count:
        raise InputError(f"a batch has {count} images and {len(label)} labels; give one class number for each image")
    return Batch(images.float(), label, torch.arange(start, start + count), torch.empty(0, dtype=torch.int64))


class Pairs(Dataset[Any]):
    """Arrays of images and labels as a data set."""

    def __init__(self, images: Any, labels: Any = None) -> None:
        self.images = images
        self.targets = None if labels is None else torch.as_tensor(labels)
        if self.targets is not None and len(self.targets) != len(images):
            raise InputError(f"{len(images)} images and {len(self.targets)} labels; give one label for each image")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index] if self.targets is None else (self.images[index], self.targets[index])


def open_images(
    name: str,
    source: Any,
    transform: Transform | None,
    batch_size: int = 64,
    num_workers: int = 0,
    unpack: Unpack = images_and_labels,
    labelled: bool = True,
    form: Form = IMAGES,
) -> Images:
    """Opens a set; reads at most one image.

    Args:
        name: how messages call it.
        source: a DataLoader, a Dataset, a path of a folder or image list, or an array or tensor of images, alone or in
            a tuple with the labels. Floating tensors ``[3, H, W]`` are preprocessed already; uint8 arrays and tensors,
            PIL images and files go through ``transform``. A DataLoader's sampler is replaced by one in order.
        transform: the preprocessing, PIL image to ``[3, H, W]``; None where it is unknown.
        batch_size: of sets that are no DataLoader.
        num_workers: likewise.
        unpack: takes a batch apart.
        labelled: whether labels are read.
        form: what an item is; rows of features come from an array ``[N, D]``, a Dataset or DataLoader of rows, or a
            table (``.npz``, ``.parquet``, ``.safetensors``).

    Raises:
        InputError: if the source is none of these, is empty, or needs a preprocessing that is unknown.
    """
    with context(name):
        if isinstance(source, DataLoader):
            return _of_loader(name, source, unpack, form)
        if isinstance(source, tuple | list) and len(source) == 2 and not isinstance(source[0], str):
            source = Pairs(_array(source[0], form), source[1])
        elif isinstance(source, Tensor | np.ndarray):
            source = Pairs(_array(source, form))
        if (
            isinstance(source, Dataset)
            and not isinstance(source, IterableDataset)
            and _is_preprocessed(source, unpack, form)
        ):
            loader = DataLoader(source, batch_size, num_workers=num_workers, worker_init_fn=start_worker)
            labels = stored_labels(source, len(source)) if labelled else None  # type: ignore[arg-type]
            return Images(name, loader, labels, (), unpack, form)
        if not isinstance(source, Dataset | str | os.PathLike):
            raise InputError(
                f"a {type(source).__name__} is no image set: give a DataLoader, a Dataset, a folder, an image list, an "
                f"array {form.arrays}, or a tuple of one and its labels"
            )
        if transform is None:
            raise InputError(
                "its images are not preprocessed, and the network does not say how: give preprocess={'size': …, "
                "'mean': […], 'std': […]}, or a function from a PIL image to a tensor [3, H, W]"
            )
        images = open_set(source, Path(), transform, labelled=labelled)
        if isinstance(images, RowSet) != (form is ROWS):
            raise InputError(
                "it is a table of features, and the network takes images: give its classifier, a `Head`, as the network"
                if form is IMAGES
                else f"its items are images, and the network takes features: give an array {form.arrays}, or a table"
            )
        loader = DataLoader(
            images, batch_size, num_workers=num_workers, collate_fn=collate, worker_init_fn=start_worker
        )
        return Images(name, loader, images.labels, images.paths, unpack, form)


def _array(images: Any, form: Form) -> Any:
    """Returns floating images as a float32 tensor, others as they are.

    Raises:
        InputError: if an array has other dimensions.
    """
    if isinstance(images, Tensor | np.ndarray) and images.ndim != form.dimensions + 1:
        raise InputError(f"an array {list(images.shape)} is no batch: give {form.arrays}")
    if isinstance(images, np.ndarray) and images.dtype.kind == "f":
        images = torch.from_numpy(images)
    return images.float() if isinstance(images, Tensor) and images.is_floating_point() else images


def _is_preprocessed(source: Any, unpack: Unpack, form: Form) -> bool:
    """Tells whether the first item of a set is a floating tensor of this form."""
    if not len(source):
        raise InputError("it is empty")
    first = source[0]
    image = unpack(first)[0] if isinstance(first, Mapping | tuple | list) else first
    return isinstance(image, Tensor) and image.ndim == form.dimensions and image.is_floating_point()


def _of_loader(name: str, loader: DataLoader, unpack: Unpack, form: Form) -> Images:
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset):
        return Images(name, loader, None, (), unpack, form)
    ordered: DataLoader = DataLoader(
        dataset,
        batch_size=loader.batch_size or 64,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn or start_worker,
    )
    return Images(name, ordered, stored_labels(dataset, len(dataset)), (), unpack, form)
