"""The callback that fits and scores every detector from the features of each batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightning_ood.data.checks import check_logits
from lightning_ood.data.sets import Batch
from lightning_ood.detectors.base import Detector
from lightning_ood.errors import InputError, about
from lightning_ood.features import Features
from lightning_ood.ops.processes import gather
from lightning_ood.ops.transfer import beside
from lightning_ood.suite import Fits, check, computed, moved, not_numbers
from lightning_ood.views.perturbation import Perturbation

if TYPE_CHECKING:
    from lightning_ood.data.datamodule import OODDataModule
    from lightning_ood.engine.module import OODModule

RESERVED = ("dataset", "role", "group", "index", "path", "label", "prediction")  # columns of scores.parquet


class ScoringCallback(L.Callback):
    """Fits the detectors in a pass over training images, scores test images, holds what both gave.

    It runs no collective inside a batch: sums and scores are brought together by :meth:`finish_fit` and
    :meth:`finish_test`, which every process calls after its loop, a process that had no image included.

    Args:
        detectors: name -> detector; null leaves out one that another config names.
    """

    def __init__(self, detectors: dict[str, Detector | None]) -> None:
        self.detectors: dict[str, Detector] = {name: d for name, d in detectors.items() if d is not None}
        for name in self.detectors:
            if name in RESERVED:
                raise InputError(f"scoring.detectors: {name!r} is a column of scores.parquet; choose another name")
        if not self.detectors:
            raise InputError("scoring.detectors: name at least one detector")
        self.fitted: Fits = {}
        self.refused: list[str] = []  # why a detector could not be fitted
        self.fingerprint = ""  # of the images that were fitted on
        self.seen = 0  # images that this process has fitted on
        self._rows: list[Tensor] = []  # per batch [B, 4]: loader, index, label, prediction
        self._scores: list[Tensor] = []  # per batch [B, detectors]

    @property
    def fitting(self) -> dict[str, Detector]:
        """The detectors that have to see training images."""
        return {name: detector for name, detector in self.detectors.items() if detector.fits}

    @property
    def to_fit(self) -> dict[str, Detector]:
        """Those of them that have no fit yet."""
        return {name: detector for name, detector in self.fitting.items() if name not in self.fitted}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Matches the detectors with the network and the fit set, and plans what each forward reads."""
        data: OODDataModule = trainer.datamodule  # type: ignore[attr-defined]
        module: OODModule = pl_module  # type: ignore[assignment]
        check_logits(module.backbone.probe.num_classes, data.classes, data.known_labels)
        self.prepare(module, data.labels, fit=stage != "test")
        data.reads_val_ood = any(part.val_ood for detector in self.to_fit.values() for part in detector.family())

    def prepare(self, module: OODModule, labels: Tensor | None, fit: bool) -> None:
        """Sets every detector up and plans the pass.

        Raises:
            InputError: naming the detector that the network or the fit set cannot serve, and why.
        """
        info = module.backbone.info(labels).sharing()
        for name, detector in self.detectors.items():
            with about(f"detector {name!r}"):
                detector.setup(info)
        used = self.to_fit if fit else self.detectors
        parts = [part for detector in used.values() for part in detector.family()]
        module.plan(
            taps=[tap for part in parts for tap in part.taps],
            gradients=[tap for part in parts for tap in part.gradients],
            attention=any(part.attention for part in parts),
            views=[view for part in parts for view in part.views] if fit else (),
        )

    # -- fit ----------------------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the fit pass with empty sums on the network's device."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._to(pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Features | None,  # type: ignore[override]
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds a batch of training images to every detector's sums; offers one of a validation OOD set to searches."""
        if outputs is None or trainer.state.fn != TrainerFn.VALIDATING:
            return
        if dataloader_idx > 0:
            assert outputs.index is not None
            sets = len(trainer.datamodule.val_ood_sets)  # type: ignore[attr-defined]
            index = outputs.index * sets + dataloader_idx - 1  # no two sets share one
            for detector in self.to_fit.values():
                detector.update_ood(replace(outputs, index=index))
            return
        for name, detector in self.to_fit.items():
            with about(f"fitting detector {name!r}"):
                detector.update(outputs)
        self.seen += len(outputs)

    def finish_fit(self, device: torch.device | str, expected: int) -> int:
        """Brings the sums of all processes together and computes the fitted tensors, on every process.

        Args:
            device: where the processes exchange tensors.
            expected: images in the fit set.

        Returns:
            how many images were fitted on. A detector that refuses says why in ``refused``; the others have their fit.

        Raises:
            InputError: if no image could be read.
        """
        self._to(device)
        seen = int(gather(torch.tensor([self.seen], device=device)).sum())
        if seen == 0:
            raise InputError(f"none of the {expected} training images could be read: there is nothing to fit on")
        if seen > expected:
            raise RuntimeError(f"{seen} images were fitted on, of a set of {expected}: an image was seen twice")
        self.refused = computed(self.to_fit, self.fitted)
        for detector in self.detectors.values():  # only now: a sketch may be held by several
            detector.reset()
        return seen

    def unfit(self) -> list[str]:
        """Removes fitted tensors that are not finite; says which, for an error once the rest is on disk."""
        broken = not_numbers(self.fitted)
        for entry in broken:
            self.fitted.pop(entry.split(": ")[0], None)
        return broken

    # -- test ---------------------------------------------------------------------------------------------------------

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Brings the fitted tensors to the network's device, and plans the perturbations that follow from them."""
        self.fitted = moved(self.fitted, pl_module.device)
        module: OODModule = pl_module  # type: ignore[assignment]
        module.perturb(self.perturbations())

    def perturbations(self) -> list[Perturbation]:
        """The steps along an input gradient that the detectors score."""
        steps: list[Perturbation] = []
        for name, detector in self.detectors.items():
            if detector.extra_forwards["test"]:
                with torch.inference_mode(False):  # a gradient is taken through copies that may be part of a graph
                    fitted = {key: value.clone() for key, value in self.fitted.get(name, {}).items()}
                steps += detector.perturbations(fitted)
        return steps

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Features | None,  # type: ignore[override]
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Scores a batch of test images with every detector."""
        if outputs is None:
            return
        scores = [self._score(name, outputs) for name in self.detectors]
        index = beside(batch.index, batch.label)
        loader = torch.full_like(index, dataloader_idx)
        self._rows.append(torch.stack([loader, index, batch.label, outputs.prediction], dim=1))
        self._scores.append(torch.stack(scores, dim=1))

    def _score(self, name: str, features: Features) -> Tensor:
        with about(f"scoring with detector {name!r}"):
            score = self.detectors[name].score(features, self.fitted.get(name, {}))
            if score.shape != (len(features),):
                raise ValueError(f"score must return one number per image [{len(features)}], not {list(score.shape)}")
        return score.detach().float()

    def finish_test(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Brings the scores of all processes together, on every process, in order of loader and index.

        Returns:
            ``[n, 4]`` int64: loader, index, label, prediction; and ``[n, detectors]`` float32.
        """
        none = torch.empty(0, 4, dtype=torch.int64), torch.empty(0, len(self.detectors))
        rows, scores = (
            gather(torch.cat([part.to(device) for part in (empty, *parts)])).cpu()
            for empty, parts in zip(none, (self._rows, self._scores), strict=True)
        )
        self._rows, self._scores = [], []
        if len(rows) == 0:
            return rows, scores
        order = (rows[:, 0] * (rows[:, 1].max().item() + 1) + rows[:, 1]).argsort()
        rows, scores = rows[order], scores[order]
        if (rows[1:, :2] == rows[:-1, :2]).all(dim=1).any():
            raise RuntimeError("an image was scored more than once")
        return rows, scores

    # -- state --------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forgets everything that was summed, fitted or scored."""
        for detector in self.detectors.values():
            detector.reset()
        self.seen, self.fitted, self.refused, self._rows, self._scores = 0, {}, [], [], []

    def _to(self, device: torch.device | str) -> None:
        for detector in self.detectors.values():
            detector.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Fitted tensors and, in plain values, what they were fitted with."""
        spec = {name: self.detectors[name].spec() for name in self.fitted}
        return {"fitted": {**self.fitted}, "spec": spec, "images": self.fingerprint}

    def keep(self, state: Mapping[str, Any]) -> list[str]:
        """Takes over, of an earlier fit on the same images, the detectors whose arguments have not changed."""
        if state.get("images") == self.fingerprint:
            same = [name for name, d in self.fitting.items() if state["spec"].get(name) == d.spec()]
            self.fitted = {name: dict(state["fitted"][name]) for name in same}
        return list(self.fitted)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a fit.

        Raises:
            InputError: if a detector that needs a fit has none there, or was fitted with other arguments.
        """
        check(state_dict, self.fitting)
        self.fitted = {name: dict(state_dict["fitted"][name]) for name in self.fitting}
