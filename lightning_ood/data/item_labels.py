"""Reads the labels of a Dataset's items before a pass, where the Dataset stores none beside its images."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, Dataset

from lightning_ood.data.images import ImageError
from lightning_ood.data.labels import NONE, known, names_in, to_number
from lightning_ood.data.sets import ImageSet, WrappedSet
from lightning_ood.data.workers import start_worker
from lightning_ood.errors import InputError
from lightning_ood.ops.console import rank_zero_print

SAMPLED = 64  # items whose labels are compared with those that the Dataset stores

Label = int | str | InputError  # an error where the item or its label cannot be read


def learn_labels(images: ImageSet, workers: int = 0) -> None:
    """Completes ``labels`` and ``classes`` of a set whose labels only its items know; others stay as they are.

    Every item is read where a sample of them gives labels that the Dataset does not store, or others than it stores.

    Args:
        images: an ID set.
        workers: processes that read items; 0 reads in this one.

    Raises:
        InputError: if a label is neither an integer, a one-hot vector nor a name, or an item cannot be read.
    """
    if not isinstance(images, WrappedSet) or not images.labelled:
        return
    sample = range(0, len(images), max(1, len(images) // SAMPLED))
    told = {i: label for i in sample if not isinstance(label := _label(images, i), ImageError)}
    if all(label == NONE for label in told.values()):
        images.labelled = images.labels is not None
        return
    if images.labels is not None:
        differing = [i for i, label in told.items() if not _agrees(images, label, int(images.labels[i]))]
        if not differing:
            return
        images.notice = (
            f"{images.name} stores other labels beside its images than its items give (item {differing[0]}: "
            f"{images.labels[differing[0]]} and {told[differing[0]]!r}); the labels of its items are used"
        )
    _read_all(images, workers)


def _agrees(images: WrappedSet, label: Label, stored: int) -> bool:
    if isinstance(label, str):
        return images.classes is not None and label in images.classes and images.classes.index(label) == stored
    return label in (NONE, stored)


def _read_all(images: WrappedSet, workers: int) -> None:
    rank_zero_print(f"Reading the labels of the {len(images)} items of {images.name}")
    loader = DataLoader(
        _Labels(images), batch_size=64, num_workers=workers, collate_fn=list, worker_init_fn=start_worker
    )
    labels: list[int | str] = []
    unreadable: list[int] = []
    for label in (label for batch in loader for label in batch):
        if isinstance(label, ImageError) and images.bad_images == "skip":
            unreadable.append(len(labels))
            label = NONE
        if isinstance(label, InputError):
            raise label
        labels.append(label)
    try:
        images.classes = names_in(labels, images.classes)
        numbers = [to_number(label, images.classes) for label in labels]
    except InputError as error:
        raise InputError(f"{images.name}: {error}") from error
    images.labels = known(torch.tensor(numbers, dtype=torch.int64))
    images.labelled = images.labels is not None
    images.unreadable = frozenset(unreadable)


def _label(images: WrappedSet, index: int) -> Label:
    try:
        return images.item_label(index)
    except InputError as error:
        return error


class _Labels(Dataset[Label]):
    def __init__(self, images: WrappedSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Label:
        return _label(self.images, index)  # a worker process would pass a raised error on with its traceback
