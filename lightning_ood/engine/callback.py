"""OOD detection inside one's own LightningModule and data: one callback, nothing else to change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_ood.backbone import Backbone
from lightning_ood.backbone.inspect import evaluating
from lightning_ood.detectors.base import Detector
from lightning_ood.engine.loaders import (
    compares,
    in_order,
    listed,
    loaders_of,
    positions_of,
    stored_targets,
    with_positions,
)
from lightning_ood.errors import InputError
from lightning_ood.evaluation.sets import Unpack, images_and_labels
from lightning_ood.features import Features
from lightning_ood.metrics.rates import ood_metrics
from lightning_ood.ops.checksums import changed, checksums
from lightning_ood.ops.console import rank_zero_print
from lightning_ood.ops.processes import gather
from lightning_ood.ops.transfer import beside
from lightning_ood.suite import DetectorSuite


class OODCallback(L.Callback):
    """Fits detectors before ``trainer.test`` and scores its batches: the first loader is ID, the others are OOD sets.

    Works on any LightningModule that holds a classifier. ``trainer.fit`` is left alone. ``trainer.test`` first runs one
    pass over the training images, without augmentation if ``train`` has none, and then logs ``auroc/<detector>/<set>``
    and ``fpr95/<detector>/<set>`` (fractions, ID positive), which are in ``trainer.callback_metrics`` afterwards. The
    scores stay in ``scores``. ``trainer.validate`` does the same where it has two or more loaders.

    Each test image costs one forward more than the module's own, or none where ``test_step`` returns the ``Features``
    of its own ``Backbone``. On several processes each needs a batch of every test set; images that a padding sampler
    repeats are counted once.

    Args:
        detectors: name -> detector.
        network: attribute of the module that is the classifier, ``[B, 3, H, W] -> [B, K]``; dots reach further in. A
            ``Backbone`` is taken as it is.
        train: training images, as a DataLoader or Dataset; the train loader of the data module or module where None.
            They are read in order, each once.
        sets: names of the test loaders; their keys where they are a dict, else ``id``, ``ood1``, ``ood2``, …
        unpack: turns a batch into images and labels.

    Attributes:
        suite: the detectors, fitted after the first test. ``suite.reset()`` makes the next test fit anew.
        scores: set -> ``[n, detectors]`` float32, in order of the set.
    """

    def __init__(
        self,
        detectors: Mapping[str, Detector | None],
        network: str = "network",
        train: Any = None,
        sets: Iterable[str] | None = None,
        unpack: Unpack = images_and_labels,
    ) -> None:
        self.suite = DetectorSuite(detectors)
        self.network, self.train, self.unpack = network, train, unpack
        self.sets = None if sets is None else list(sets)
        self.scores: dict[str, Tensor] = {}
        self._backbone: Backbone | None = None
        self._parts: list[list[tuple[Tensor, Tensor]]] = []  # per loader: positions [B], scores [B, detectors]

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fits what has no fit yet, where ``trainer.validate`` has several loaders."""
        if compares(trainer):
            self.on_test_start(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Scores a batch of ``trainer.validate``."""
        if compares(trainer):
            self.on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs AUROC and FPR95 of every OOD set of ``trainer.validate``."""
        if compares(trainer):
            self.on_test_epoch_end(trainer, pl_module)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fits what has no fit yet.

        Raises:
            InputError: if the module has no such network, there are no training images, or a detector cannot be fitted.
        """
        self._parts = []
        loader = in_order(self._train_loader(trainer), trainer.global_rank, trainer.world_size)
        with evaluating(pl_module), torch.inference_mode():
            first = self.unpack(next(iter(loader)))[0]
            backbone = self._backbone = self._find_backbone(pl_module, (first.shape[-2], first.shape[-1]))
            self.suite.setup(backbone.info(stored_targets(loader)))
            self.suite.to(pl_module.device)
            if self.suite.unfitted:
                self._fit(trainer, pl_module, backbone, loader)
        backbone.configure(self.suite.to(pl_module.device).reads("test"))

    def _fit(self, trainer: L.Trainer, module: L.LightningModule, backbone: Backbone, loader: DataLoader) -> None:
        backbone.configure(self.suite.reads("fit"))
        for batch, index in with_positions(loader):
            batch = trainer.strategy.batch_to_device(batch, module.device)
            with trainer.precision_plugin.val_step_context():
                images, labels = self.unpack(batch)
                features = backbone(images, labels, index)
            self.suite.update(features)
        names = ", ".join(self.suite.unfitted)
        reasons = self.suite.compute()
        if reasons:
            raise InputError("; ".join(str(reason) for reason in reasons.values()))
        rank_zero_print(f"Fitted {names}")

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Scores a batch."""
        assert self._backbone is not None
        images, labels = self.unpack(batch)
        features = outputs
        if not isinstance(outputs, Features):
            with trainer.precision_plugin.test_step_context():
                features = self._backbone(images, labels)
        while len(self._parts) <= dataloader_idx:
            self._parts.append([])
        seen = sum(len(positions) for positions, _ in self._parts[dataloader_idx])
        positions = positions_of(listed(trainer)[dataloader_idx])[seen : seen + len(features)]
        self._parts[dataloader_idx].append((beside(positions, features.logits), self.suite.score(features)))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Brings the scores of all processes together and logs AUROC and FPR95 of every OOD set.

        Raises:
            InputError: if there is no OOD set, or the sets and their names differ in number.
        """
        names = self._names(trainer)
        for name, parts in zip(names, self._parts, strict=True):
            positions = gather(torch.cat([part[0] for part in parts]))
            scores = gather(torch.cat([part[1] for part in parts]))
            order = positions.unique(return_inverse=True)[1]
            self.scores[name] = scores.new_empty(int(order.max()) + 1, scores.shape[1]).index_copy_(0, order, scores)
        id_set, *ood_sets = names
        for ood in ood_sets:
            for i, detector in enumerate(self.suite.detectors):
                found = ood_metrics(self.scores[id_set][:, i], self.scores[ood][:, i])
                for metric in ("auroc", "fpr95"):
                    pl_module.log(f"{metric}/{detector}/{ood}", found[metric], rank_zero_only=False, sync_dist=False)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Takes the hooks off the network."""
        if self._backbone is not None:
            self._backbone.close()

    def state_dict(self) -> dict[str, Any]:
        """The fits and their checksums, for a checkpoint."""
        state = self.suite.state_dict()
        return {**state, "checksums": checksums(state)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the fits of detectors whose arguments are the same.

        Raises:
            InputError: if a value is not the one that was saved.
        """
        state = {key: value for key, value in state_dict.items() if key != "checksums"}
        if wrong := changed(state, state_dict.get("checksums", {})):
            raise InputError(f"OODCallback: {', '.join(wrong[:3])} in the checkpoint differ from their checksums")
        self.suite.keep(state)

    def _find_backbone(self, module: L.LightningModule, size: tuple[int, int]) -> Backbone:
        found: Any = module
        for name in self.network.split("."):
            if not isinstance(getattr(found, name, None), nn.Module):
                names = ", ".join(child for child, _ in module.named_children())
                raise InputError(
                    f"OODCallback(network={self.network!r}): the module has no such network; it has {names or 'none'}"
                )
            found = getattr(found, name)
        return found if isinstance(found, Backbone) else Backbone(found, size)

    def _train_loader(self, trainer: L.Trainer) -> DataLoader:
        source = self.train
        for owner in (getattr(trainer, "datamodule", None), trainer.lightning_module):
            if source is None and owner is not None:
                owner.setup("fit")
                source = owner.train_dataloader()
        if source is None:
            raise InputError("OODCallback needs training images: give `train`, a DataLoader or Dataset")
        return source if isinstance(source, DataLoader) else DataLoader(source, batch_size=64)

    def _names(self, trainer: L.Trainer) -> list[str]:
        count, given = len(self._parts), self.sets
        if given is None:
            loaders = loaders_of(trainer)
            plain = ["id", *(f"ood{i}" for i in range(1, count))]
            given = list(loaders) if isinstance(loaders, dict) else plain
        if count < 2 or len(given) != count:
            raise InputError(
                f"OODCallback: {count} loaders gave images, with the names {', '.join(given)}: give the ID test "
                "set first, then one or more OOD sets, and one name for each"
            )
        return given
