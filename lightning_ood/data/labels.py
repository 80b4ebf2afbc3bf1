"""Labels of a map-style Dataset: those stored beside its images, and those that only its items tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset

from lightning_ood.errors import InputError

NONE = -1  # the label of an image that has none
LARGEST = 10**7  # label; a table of counts per class is as long as the largest


def stored_labels(dataset: Any, size: int) -> Tensor | None:
    """Returns labels ``[size]`` stored beside the images, as torchvision's ``targets``; None where none has one."""
    if isinstance(dataset, Subset):
        inner = stored_labels(dataset.dataset, len(dataset.dataset))  # type: ignore[arg-type]
        return None if inner is None else known(inner[torch.as_tensor(dataset.indices, dtype=torch.int64)])
    if isinstance(dataset, ConcatDataset):
        parts = [stored_labels(part, len(part)) for part in dataset.datasets]  # type: ignore[arg-type]
        return None if any(part is None for part in parts) else torch.cat([p for p in parts if p is not None])
    for name in ("targets", "labels", "_labels"):
        values = getattr(dataset, name, None)
        if values is None:
            continue
        try:
            labels = torch.as_tensor(values)
        except (TypeError, ValueError, RuntimeError):
            continue
        if labels.shape in ((size,), (size, 1)) and not labels.is_floating_point():
            return known(labels.reshape(size).to(torch.int64))
    return None


def known(labels: Tensor) -> Tensor | None:
    """Returns the labels, or None where no image has one."""
    return labels if bool((labels >= 0).any()) else None


def class_names(dataset: Any) -> list[str] | None:
    """Returns the names of a dataset's classes in the order of their labels, or None where unknown.

    Raises:
        InputError: if the parts of a ConcatDataset name different classes.
    """
    if isinstance(dataset, Subset):
        return class_names(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        named = [names for part in dataset.datasets if (names := class_names(part)) is not None]
        if any(names != named[0] for names in named):
            raise InputError("ConcatDataset: its parts name different classes; a label must mean one class in all")
        return named[0] if named else None
    classes = getattr(dataset, "classes", None)
    # torchvision's ImageNet names a class by a tuple of synonyms
    return [c if isinstance(c, str) else ", ".join(map(str, c)) for c in classes] if classes else None


def plain_label(label: Any) -> int | str:
    """Converts an item's label to an integer, -1 for none, or to the name of a class.

    Args:
        label: None, a name, or a number, array or tensor that holds one integer; or a one-hot vector.

    Raises:
        InputError: if it is something else.
    """
    if label is None:
        return NONE
    if isinstance(label, int | str):
        return int(label) if isinstance(label, int) else str(label)
    try:
        values = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError):
        values = torch.empty(0)
    whole = not values.is_complex() and bool((values == values.long()).all())
    if whole and values.numel() == 1:
        return int(values)
    if whole and values.ndim == 1 and bool(((values == 0) | (values == 1)).all()) and int(values.sum()) == 1:
        return int(values.long().argmax())
    shown = " ".join(repr(label).split())
    shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
    raise InputError(f"its label is {shown}; it must be one integer (-1 for none), a one-hot vector or a class name")


def to_number(label: int | str, classes: list[str] | None) -> int:
    """Returns the number of a label that may be the name of a class.

    Raises:
        InputError: if it is a name that is not among the classes.
    """
    if isinstance(label, int):
        return label
    if classes is None or label not in classes:
        names = ", ".join((classes or [])[:5]) or "there are none"
        raise InputError(
            f"its label is {label!r}; it must be one integer (-1 for none), or a name in the data set's `classes` "
            f"({names})"
        )
    return classes.index(label)


def names_in(labels: Sequence[int | str], classes: list[str] | None) -> list[str] | None:
    """Returns the names of the classes: those given, else the sorted names among the labels.

    Raises:
        InputError: if some labels are names and others are numbers.
    """
    named = {label for label in labels if isinstance(label, str)}
    if named and any(isinstance(label, int) and label != NONE for label in labels):
        raise InputError("some of its labels are names and some are numbers; give all in one form")
    return sorted(named) if named and classes is None else classes
