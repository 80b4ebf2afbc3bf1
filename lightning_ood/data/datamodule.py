"""One in-distribution set, any number of out-of-distribution sets in named groups, and their loaders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from lightning_ood.data.augment import Augment
from lightning_ood.data.checks import check_names, check_same_classes, check_training_classes
from lightning_ood.data.fingerprint import fingerprint
from lightning_ood.data.sampling import ExactSampler
from lightning_ood.data.sets import ImageSet, Transform, collate, open_set
from lightning_ood.errors import InputError


def data_root(root: str | Path | None = None) -> Path:
    """Where relative paths start: ``root``, else the environment variable LIGHTNING_OOD_DATA, else ``data``."""
    return Path(root or os.environ.get("LIGHTNING_OOD_DATA") or "data").expanduser().absolute()


@dataclass
class IDSets:
    """The in-distribution set.

    A set is a folder of class folders, a folder of images, an image list ``*.txt`` or a map-style Dataset.

    Attributes:
        train: what detectors are fitted on (and a small network is trained on).
        test: what is scored.
        val: checked after each epoch of training; optional.
        name: what the tables call it.
    """

    train: str | Dataset
    test: str | Dataset
    val: str | Dataset | None = None
    name: str = "id"


@dataclass(frozen=True)
class TestSet:
    """A set that is scored.

    Attributes:
        name: its name in the tables.
        role: id or ood.
        group: ``id``, or the name of its group (near, far, …).
        images: the images, their paths and labels.
    """

    __test__ = False  # no test class, whatever pytest thinks of the name

    name: str
    role: Literal["id", "ood"]
    group: str
    images: ImageSet


class OODDataModule(L.LightningDataModule):
    """Loaders for training, fitting and scoring.

    - ``trainer.fit``: shuffled, augmented training images; the ID validation set where there is one.
    - ``trainer.validate``: ``{"fit": …}``, each ID training image once with test preprocessing, to fit detectors on;
      then ``"val_ood/<name>"``, where there are validation OOD sets.
    - ``trainer.test``: ``{"id": …, "ood/<group>/<set>": …}`` in the order of the config, each image once.

    Preprocessing is the model's own (``trainer.lightning_module.preprocess``), or ``transform`` where that is set.
    Out-of-distribution images have the label -1: those of their own label space mean nothing to the classifier.

    Args:
        id: the in-distribution set.
        ood: ``<group>/<name>`` -> set, as in ``near/tiny_imagenet``. One level, so that the command line can add a set
            (``--data.ood.far/mine <folder>``) or change one without replacing its neighbours.
        root: where relative paths start; by default the environment variable LIGHTNING_OOD_DATA, else ``data``.
        batch_size: images per batch and process.
        num_workers: processes that load images for each loader; 0 loads in the main process.
        bad_images: stop at an image that cannot be read, or skip it and list it in ``Batch.skipped``.
        augment: random changes to training images: crop (after padding by an eighth), flip (left to right).
        seed: the order of training images.
        val_ood: name -> validation OOD set, which a search of hyper-parameters may use; disjoint from the test sets.

    Raises:
        InputError: if a name is used twice or reserved, or a key is not ``<group>/<name>``.
    """

    def __init__(
        self,
        id: IDSets,
        ood: dict[str, str | Dataset] | None = None,
        root: str | None = None,
        batch_size: int = 128,
        num_workers: int = 0,
        bad_images: Literal["error", "skip"] = "error",
        augment: list[Literal["crop", "flip"]] | None = None,
        seed: int = 0,
        val_ood: dict[str, str | Dataset] | None = None,
    ) -> None:
        super().__init__()
        self.id = id
        self.ood = ood or {}
        self.val_ood = val_ood or {}
        self.root = data_root(root)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.bad_images = bad_images
        self.augment = augment or []
        self.seed = seed
        self.transform: Transform | None = None
        self.train_set: ImageSet | None = None
        self.val_set: ImageSet | None = None
        self.val_ood_sets: dict[str, ImageSet] = {}
        self.sets: dict[str, TestSet] = {}
        self._known_classes: list[str] | None = None
        self._opened: dict[str, ImageSet] = {}
        check_names(id.name, self.ood)
        if batch_size < 1 or num_workers < 0:
            raise InputError(f"batch_size is {batch_size}, num_workers {num_workers}; they must be >= 1 and >= 0")

    def setup(self, stage: str) -> None:
        """Opens the sets that a stage reads, so that what is missing is found before any image is.

        Args:
            stage: fit, validate or test.

        Raises:
            InputError: if a set cannot be opened or has fewer than two images, or a class has no training image.
        """
        if stage in ("fit", "validate"):
            self.train_set = self._open(self.id.train, "data.id.train")
            check_training_classes(self.train_set)
            for name, spec in self.val_ood.items():
                self.val_ood_sets[f"val_ood/{name}"] = self._open(spec, f"data.val_ood.{name}").without_labels()
        if stage == "fit" and self.id.val is not None:
            self.val_set = self._open(self.id.val, "data.id.val")
            check_same_classes(self.train_set.classes if self.train_set else None, self.val_set, "data.id.val")
        if stage == "test":
            if not self.ood:
                raise InputError("no out-of-distribution set: add one as `--data.ood.<group>/<name> <folder or list>`")
            self.sets = {"id": TestSet(self.id.name, "id", "id", self._open(self.id.test, "data.id.test"))}
            for key, spec in self.ood.items():
                group, name = key.split("/")
                images = self._open(spec, f"data.ood.{key}").without_labels()
                self.sets[f"ood/{key}"] = TestSet(name, "ood", group, images)

    def fingerprint(self) -> str:
        """Of the images that a fit is made on, validation OOD sets included; after ``setup``."""
        assert self.train_set is not None
        return fingerprint([self.train_set, *self.val_ood_sets.values()])

    @property
    def labels(self) -> Tensor | None:
        """``[N]`` int64 labels of the ID training images, or None where unknown; after ``setup``."""
        return self.train_set.labels if self.train_set else None

    @property
    def classes(self) -> list[str] | None:
        """Names of the ID classes in the order of the labels, or None where unknown; after ``setup``."""
        if self.train_set is not None:
            return self.train_set.classes
        known = self.sets["id"].images.classes if self.sets else None
        return known or self._known_classes

    def train_dataloader(self) -> DataLoader:
        """Shuffled and augmented training images; on several processes a few repeat, so that all take equal steps."""
        assert self.train_set is not None
        images = (
            self.train_set.using(Augment(self._transform(), tuple(self.augment))) if self.augment else self.train_set
        )
        sampler: DistributedSampler = DistributedSampler(
            images, num_replicas=self._world_size, rank=self._rank, shuffle=True, seed=self.seed
        )
        return self._loader(images, sampler)

    def val_dataloader(self) -> dict[str, DataLoader] | list[DataLoader]:
        """During training the ID validation set, if any; else the training images as detectors see them."""
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            return {"val": self._exact(self.val_set)} if self.val_set is not None else []
        assert self.train_set is not None
        return {name: self._exact(images) for name, images in ({"fit": self.train_set} | self.val_ood_sets).items()}

    def test_dataloader(self) -> dict[str, DataLoader]:
        """Every set that is scored: name of the loader (a key of ``sets``) -> loader."""
        check_same_classes(self._known_classes, self.sets["id"].images, "data.id.test")
        return {name: self._exact(entry.images) for name, entry in self.sets.items()}

    def state_dict(self) -> dict[str, Any]:
        """The class names, so that a test set with other classes is refused."""
        return {"classes": self.classes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remembers the class names of the fit."""
        self._known_classes = state_dict.get("classes")

    def _open(self, spec: str | Dataset, key: str) -> ImageSet:
        if key not in self._opened:  # fit has two phases; a large folder is walked once
            try:
                self._opened[key] = open_set(spec, self.root, self._transform(), self.bad_images)
            except InputError as error:
                raise InputError(f"{key}: {error}") from error
        images = self._opened[key].using(self._transform())
        if len(images) < 2:
            raise InputError(
                f"{key}: {images.name} has one image; at least two are needed for a number with an interval"
            )
        return images

    def _transform(self) -> Transform:
        if self.transform is not None:
            return self.transform
        if self.trainer is None:
            raise InputError("no preprocessing: set `datamodule.transform`, or use the datamodule in a Trainer")
        preprocess: Any = self.trainer.lightning_module.preprocess
        return preprocess.transform()

    def _exact(self, images: ImageSet) -> DataLoader:
        return self._loader(images, ExactSampler(len(images), self._rank, self._world_size))

    def _loader(self, images: ImageSet, sampler: Sampler) -> DataLoader:
        return DataLoader(
            images,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
        )

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1
