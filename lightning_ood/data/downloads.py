"""Builds data sets that a config names by class: one process downloads at a time, and errors name the data set."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch.utils.data import Dataset, Subset

from lightning_ood.data.labels import stored_labels
from lightning_ood.errors import InputError


def build(dataset: Callable[..., Dataset], /, *args: Any, **kwargs: Any) -> Dataset:
    """Builds a data set; with ``download: true`` the processes of a run take turns at its ``root``.

    The first one downloads, the others find it done: torchvision's sets look before they download. A set that cannot be
    built says so when it is opened, so that the error names its key and a run that does not read it is not stopped.
    """
    root = kwargs.get("root")
    with _turn(Path(root)) if kwargs.get("download") and root else nullcontext():
        try:
            return dataset(*args, **kwargs)
        except InputError as error:
            return Unopened(str(error), error)
        except (OSError, RuntimeError) as error:
            name = getattr(dataset, "__name__", str(dataset)) + (f" in {root}" if root else "")
            return Unopened(f"{name} cannot be opened: {str(error).strip() or type(error).__name__}", error)


class Unopened(Dataset[Any]):
    """Stands for a data set that could not be built.

    Args:
        message: what is wrong.
        cause: the original error.
    """

    def __init__(self, message: str, cause: Exception) -> None:
        self.message, self.cause = message, cause

    def __len__(self) -> int:
        """Raises what building raised.

        Raises:
            InputError: always.
        """
        raise InputError(self.message) from self.cause


def _turn(root: Path) -> AbstractContextManager[Any]:
    """Waits until no other process builds the data set; does not wait where the folder cannot be written to."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        return FileLock(root / ".lock").acquire()
    except OSError:
        return nullcontext()


class FirstOfEachClass(Subset[Any]):
    """The first images of each class, in the order of the data set: how the CIFAR suite of DICE cuts SVHN's test set.

    Args:
        dataset: with a label for each image (``targets``, ``labels``).
        count: images of each class, at most.

    Raises:
        InputError: if the data set has no labels.
    """

    def __init__(self, dataset: Dataset, count: int = 1000) -> None:
        labels = stored_labels(dataset, len(dataset))  # type: ignore[arg-type]
        if labels is None:
            raise InputError(f"FirstOfEachClass: {type(dataset).__name__} has no labels to choose by")
        seen: dict[int, int] = {}
        chosen = []
        for index, label in enumerate(labels.tolist()):
            seen[label] = seen.get(label, 0) + 1
            if seen[label] <= count:
                chosen.append(index)
        super().__init__(dataset, chosen)
