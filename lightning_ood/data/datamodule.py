"""One in-distribution set, any number of out-of-distribution sets in named groups, and their loaders."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, Sampler

from lightning_ood.data.augment import Augment, KeepSize
from lightning_ood.data.checks import check_names, check_same_classes, check_trainable, check_training_classes
from lightning_ood.data.files import ImageList
from lightning_ood.data.fingerprint import Fingerprint, content_of, fingerprint
from lightning_ood.data.item_labels import learn_labels
from lightning_ood.data.limit import limited
from lightning_ood.data.opening import open_set
from lightning_ood.data.root import data_root
from lightning_ood.data.sampling import ExactSampler
from lightning_ood.data.sets import Batch, ImageSet, Transform, collate
from lightning_ood.data.specs import IDSets, Spec, TestSet
from lightning_ood.data.workers import check_shared_memory, start_worker
from lightning_ood.errors import InputError
from lightning_ood.ops.console import rank_zero_print


def _named(sets: dict[str, Spec | None] | None) -> dict[str, Spec]:
    return {name: spec for name, spec in (sets or {}).items() if spec is not None}


class OODDataModule(L.LightningDataModule):
    """Loaders for training, fitting and scoring.

    - ``trainer.fit``: shuffled, augmented training images; the ID validation set where there is one.
    - ``trainer.validate``: ``{"fit": …}``, each ID training image once with test preprocessing, to fit detectors on;
      then ``"val_ood/<name>"``, where there are validation OOD sets and a detector reads them.
    - ``trainer.test``: ``{"id": …, "ood/<group>/<set>": …, "csid/<set>": …}`` in the order of the config, each image
      once.

    Preprocessing is the model's own (``trainer.lightning_module.preprocess``), or ``transform`` where that is set.
    Out-of-distribution images have the label -1: those of their own label space mean nothing to the classifier.

    Args:
        id: the in-distribution set.
        ood: ``<group>/<name>`` -> set, as in ``near/tiny_imagenet``. One level, so that the command line can add a set
            (``--data.ood.far/mine <folder>``) or change one without replacing its neighbours; null leaves out one that
            another config names, here and below.
        root: where relative paths start; by default the environment variable LIGHTNING_OOD_DATA, else ``data``.
        batch_size: images per batch and process.
        num_workers: processes that load images for each loader; 0 loads in the main process.
        bad_images: stop at an image that cannot be read, or skip it and list it in ``Batch.skipped``.
        augment: random changes to training images: crop (after padding by an eighth), flip (left to right).
        seed: the order of training images.
        val_ood: name -> validation OOD set, which a search of hyper-parameters may use; disjoint from the test sets.
        csid: name -> covariate-shifted ID set: the same classes and labels in another look. Counted as ID in the
            full-spectrum rows of the table, which stand beside the others.
        exif_orientation: turn images as their EXIF orientation says; by default they are read as they are stored.
        limit: the most images of each set, for a first try: spread over the set, drawn by the seed, with equal shares
            of the classes where there are labels. Every table says so.

    Attributes:
        reads_val_ood: whether the fit pass runs over the validation OOD sets; the scoring sets it to what its detectors
            need.

    Raises:
        InputError: if a name is used twice or reserved, a key is not ``<group>/<name>``, or a number is out of range.
    """

    def __init__(
        self,
        id: IDSets,
        ood: dict[str, Spec | None] | None = None,
        root: str | None = None,
        batch_size: int = 128,
        num_workers: int = 0,
        bad_images: Literal["error", "skip"] = "error",
        augment: list[Literal["crop", "flip"]] | None = None,
        seed: int = 0,
        val_ood: dict[str, Spec | None] | None = None,
        csid: dict[str, Spec | None] | None = None,
        exif_orientation: bool = False,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self.id = id
        self.ood, self.val_ood, self.csid = (_named(sets) for sets in (ood, val_ood, csid))
        self.reads_val_ood = True
        self.root = data_root(root)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.bad_images = bad_images
        self.exif_orientation = exif_orientation
        self.augment = augment or []
        self.seed = seed
        self.limit = limit
        self.transform: Transform | None = None
        self.train_set: ImageSet | None = None
        self.val_set: ImageSet | None = None
        self.val_ood_sets: dict[str, ImageSet] = {}
        self.sets: dict[str, TestSet] = {}
        self._class_names: list[str] | None = None
        self._opened: dict[str, ImageSet] = {}
        check_names(id.name, self.ood, self.csid)
        if batch_size < 1 or num_workers < 0:
            raise InputError(f"batch_size is {batch_size}, num_workers {num_workers}; they must be >= 1 and >= 0")
        if limit is not None and limit < 2:
            raise InputError(f"data.limit is {limit}; write the most images of each set, at least 2, or null for all")

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Moves a batch to the device, except the images' indices: the host reads them without a synchronisation."""
        moved: Batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved._replace(index=batch.index, skipped=batch.skipped)

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
                self.val_ood_sets[f"val_ood/{name}"] = self._open(spec, f"data.val_ood.{name}", labelled=False)
        if stage == "fit" and self.train_set is not None:
            check_trainable(self.train_set, "data.id.train")
            if self.id.val is not None:
                self.val_set = self._open(self.id.val, "data.id.val")
                check_trainable(self.val_set, "data.id.val")
                check_same_classes(self.train_set.classes, self.val_set, "data.id.val")
        if stage == "test":
            if not self.ood:
                raise InputError("no out-of-distribution set: add one as `--data.ood.<group>/<name> <folder or list>`")
            self.sets = {"id": TestSet(self.id.name, "id", "id", self._open(self.id.test, "data.id.test"))}
            for key, spec in self.ood.items():
                group, name = key.split("/")
                images = self._open(spec, f"data.ood.{key}", labelled=False)
                self.sets[f"ood/{key}"] = TestSet(name, "ood", group, images)
            for name, spec in self.csid.items():
                self.sets[f"csid/{name}"] = TestSet(name, "csid", "csid", self._open(spec, f"data.csid.{name}"))

    def fingerprint(self, training: bool = False) -> Fingerprint:
        """Returns a fingerprint of the sets that a training or a fit reads, by name; after ``setup``."""
        with torch.random.fork_rng(devices=[]):  # a training must not draw other numbers for it
            return {name: fingerprint(images, self.root) for name, images in self._read(training).items()}

    def content(self, name: str, training: bool = False) -> str:
        """Reads a whole set, on this process alone, and returns the content of its fingerprint."""
        images = self._read(training)[name]
        with torch.random.fork_rng(devices=[]):
            return content_of(self._loader(images, ExactSampler(len(images), 0, 1)))

    def _read(self, training: bool) -> dict[str, ImageSet]:
        assert self.train_set is not None
        if not training:
            return {"fit": self.train_set, **self.val_ood_sets}
        return {"fit": self.train_set} | ({} if self.val_set is None else {"val": self.val_set})

    @property
    def labels(self) -> Tensor | None:
        """``[N]`` int64 labels of the ID training images, or None where unknown; after ``setup``."""
        return self.train_set.labels if self.train_set else None

    @property
    def known_labels(self) -> Tensor | None:
        """``[N]`` int64 labels of the ID images that a stage reads, of training or of test; None where unknown."""
        return self.sets["id"].images.labels if self.train_set is None and self.sets else self.labels

    @property
    def classes(self) -> list[str] | None:
        """Names of the ID classes in the order of the labels, or None where unknown; after ``setup``."""
        if self.train_set is not None:
            return self.train_set.classes
        test_names = self.sets["id"].images.classes if self.sets else None
        return self._class_names or test_names

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
        """Returns the ID validation loader during training, if any; else the loaders of the fit pass."""
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            return {"val": self._exact(self.val_set)} if self.val_set is not None else []
        assert self.train_set is not None
        others = self.val_ood_sets if self.reads_val_ood else {}
        return {name: self._exact(images) for name, images in ({"fit": self.train_set} | others).items()}

    def test_dataloader(self) -> dict[str, DataLoader]:
        """Returns the loaders of all scored sets: key of ``sets`` -> loader."""
        class_names = self._class_names or self.sets["id"].images.classes
        for entry in self.sets.values():
            if entry.role != "ood":
                check_same_classes(
                    class_names, entry.images, "data.id.test" if entry.role == "id" else f"data.csid.{entry.name}"
                )
        return {name: self._exact(entry.images) for name, entry in self.sets.items()}

    def state_dict(self) -> dict[str, Any]:
        """Returns class names and limit, so that ``test`` can refuse ID images of other classes and another limit."""
        return {"classes": self.classes} | ({} if self.limit is None else {"limit": self.limit})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the class names of the fit."""
        self._class_names = state_dict.get("classes")

    def _open(self, spec: Spec, key: str, labelled: bool = True) -> ImageSet:
        if key not in self._opened:  # fit has two phases; a large folder is walked once
            try:
                images = open_set(spec, self.root, self._transform(spec), self.bad_images, labelled)
                images.upright = self.exif_orientation
                learn_labels(images, self.num_workers)
                images = self._opened[key] = limited(images, self.limit, self.seed)
            except InputError as error:
                raise InputError(f"{key}: {error}") from error
            if images.notice:
                rank_zero_print(f"{key}: {images.notice}")
        images = self._opened[key].using(self._transform(spec))
        if len(images) < 2:
            raise InputError(
                f"{key}: {images.name} has one image; at least two are needed for a number with an interval"
            )
        return images

    def _transform(self, spec: Spec | None = None) -> Transform:
        if self.transform is not None:
            return self.transform
        if self.trainer is None:
            raise InputError("no preprocessing: set `datamodule.transform`, or use the datamodule in a Trainer")
        preprocess: Any = self.trainer.lightning_module.preprocess
        usual = preprocess.transform()
        if isinstance(spec, ImageList) and spec.keep_size:
            return KeepSize(usual, preprocess.override(resize=None).transform(), preprocess.size)
        return usual

    def _exact(self, images: ImageSet) -> DataLoader:
        return self._loader(images, ExactSampler(len(images), self._rank, self._world_size))

    def _loader(self, images: ImageSet, sampler: Sampler) -> DataLoader:
        if self.num_workers and self.trainer is not None and self.transform is None:
            preprocess: Any = self.trainer.lightning_module.preprocess
            check_shared_memory(self.num_workers, self.batch_size, preprocess.size)
        return DataLoader(
            images,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=start_worker,
        )

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1
