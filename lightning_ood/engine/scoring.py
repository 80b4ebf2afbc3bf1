"""The callback through which every batch meets the detectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightning_ood.data.checks import check_logits
from lightning_ood.data.fingerprint import Fingerprint, content_text, pixel_sum, same_images
from lightning_ood.data.sets import Batch
from lightning_ood.detectors.base import Detector
from lightning_ood.errors import InputError
from lightning_ood.features import Features
from lightning_ood.ops.console import rank_zero_print
from lightning_ood.ops.processes import gather
from lightning_ood.ops.transfer import beside
from lightning_ood.suite import DetectorSuite

if TYPE_CHECKING:
    from lightning_ood.data.datamodule import OODDataModule
    from lightning_ood.engine.module import OODModule

RESERVED = ("dataset", "role", "group", "index", "path", "label", "prediction")  # columns of scores.parquet


class ScoringCallback(L.Callback):
    """Fits all detectors in one pass over the training images, scores the test images, and keeps both results.

    No collective runs inside a batch: :meth:`finish_fit` and :meth:`finish_test` bring sums and scores together. Every
    process calls them after its loop, also one that had no image.

    Args:
        detectors: name -> detector; null leaves out one that another config names.
    """

    def __init__(self, detectors: dict[str, Detector | None]) -> None:
        self.suite = DetectorSuite(detectors)
        for name in self.suite.detectors:
            if name in RESERVED:
                raise InputError(f"scoring.detectors: {name!r} is a column of scores.parquet; choose another name")
            if not name.isprintable():
                raise InputError(f"scoring.detectors: {name!a} cannot be printed; choose another name")
        if not self.suite.detectors:
            raise InputError("scoring.detectors: name at least one detector")
        self.fingerprint: Fingerprint = {}  # of the images that were fitted on
        self._sets: list[str] = []  # that the fit pass reads
        self._content: dict[int, Tensor] = {}  # position of a set -> [] sum of its images' hashes
        self.seen = 0  # images that this process has fitted on
        self._rows: list[Tensor] = []  # per batch [B, 4]: loader, index, label, prediction
        self._scores: list[Tensor] = []  # per batch [B, detectors]

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Matches the detectors with the network and the fit set, and plans what each forward reads."""
        data: OODDataModule = trainer.datamodule  # type: ignore[attr-defined]
        module: OODModule = pl_module  # type: ignore[assignment]
        check_logits(module.backbone.probe.num_classes, data.classes, data.known_labels)
        for entry in data.sets.values():
            if entry.role == "csid":
                check_logits(module.backbone.probe.num_classes, None, entry.images.labels, entry.name)
        if stage != "test" and data.labels is None:
            self._refuse()
        self.suite.setup(module.backbone.info(data.labels))
        if stage != "test":
            reads = self.suite.reads("fit")
            module.backbone.configure(reads)
            data.reads_val_ood = reads.val_ood
            self._sets = ["fit", *(data.val_ood_sets if reads.val_ood else ())]

    def leave_out(self, module: OODModule) -> None:
        """Leaves out, by name, the detectors that read what the network does not give.

        They read more than stored features hold, or logits that only name the nearest class mean.

        Raises:
            InputError: if no detector is left.
        """
        if module.finetune == "means":
            self._leave_out_logits()
        if module.backbone.from_images:
            return
        removed = self.suite.leave_out_unusable(module.backbone.info(), images=False)
        reasons = "; ".join(f"{name}: {reason}" for name, reason in removed.items())
        if removed and not self.suite.detectors:
            raise InputError(f"scoring.detectors: none can run on stored features ({reasons})")
        if removed:
            rank_zero_print(f"Left out, since features are stored and not images: {', '.join(removed)}")

    def _leave_out_logits(self) -> None:
        removed = self.suite.leave_out_logits()
        if removed and not self.suite.detectors:
            raise InputError(
                f"{', '.join(removed)}: detectors that read logits, and with model.finetune: means the network has no "
                "learned classifier; name others (KNN, MDS, CTM, FeatureNorm, ...), or write finetune: ridge"
            )
        if removed:
            rank_zero_print(
                f"Left out, since they read logits and no classifier was learned: {', '.join(removed)} "
                "(model.finetune: ridge gives logits)"
            )

    def _refuse(self) -> None:
        """Refuses detectors that need labels, by name; raises InputError where nothing else is to be fitted."""
        before = self.suite.unfitted
        self.suite.refuse_without_labels()
        reasons = "; ".join(str(reason) for reason in self.suite.refused.values())
        if before and not self.suite.unfitted:
            raise InputError(f"data.id.train: {reasons}")
        if reasons:
            rank_zero_print(f"Not fitted: {reasons}")

    # -- fit ----------------------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Moves the empty sums to the network's device."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.suite.to(pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Features | None,  # type: ignore[override]
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds a batch of training images to the sums, or offers a batch of a validation OOD set to searches."""
        if outputs is None or trainer.state.fn != TrainerFn.VALIDATING:
            return
        total = pixel_sum(batch)
        self._content[dataloader_idx] = self._content.get(dataloader_idx, torch.zeros_like(total)) + total
        if dataloader_idx == 0:
            self.suite.update(outputs)
            self.seen += len(outputs)
            return
        assert outputs.index is not None
        sets = len(trainer.datamodule.val_ood_sets)  # type: ignore[attr-defined]
        index = outputs.index * sets + dataloader_idx - 1  # no two sets share one
        self.suite.update_ood(replace(outputs, index=index))

    def finish_fit(self, device: torch.device | str, expected: int) -> tuple[int, dict[str, InputError]]:
        """Brings the sums of all processes together and computes the fits, on every process.

        Args:
            device: where the processes exchange tensors.
            expected: images in the fit set.

        Returns:
            how many images were fitted on, and name -> why a detector could not be fitted.

        Raises:
            InputError: if no image could be read.
        """
        self.suite.to(device)
        seen = int(gather(torch.tensor([self.seen], device=device)).sum())
        if seen == 0:
            raise InputError(f"none of the {expected} training images could be read: there is nothing to fit on")
        if seen > expected:
            raise RuntimeError(f"{seen} images were fitted on, of a set of {expected}: an image was seen twice")
        none = torch.zeros((), dtype=torch.int64)
        for i, name in enumerate(self._sets):
            totals = gather(self._content.get(i, none).to(device)[None])  # [processes]
            self.fingerprint.setdefault(name, {})["content"] = content_text(totals.sum())
        return seen, self.suite.compute()

    # -- test ---------------------------------------------------------------------------------------------------------

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Moves the fitted tensors to the network's device, and plans what each forward reads, given the fit."""
        module: OODModule = pl_module  # type: ignore[assignment]
        module.backbone.configure(self.suite.to(pl_module.device).reads("test"))

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
        scores = self.suite.score(outputs)
        index = beside(batch.index, batch.label)
        loader = torch.full_like(index, dataloader_idx)
        self._rows.append(torch.stack([loader, index, batch.label, outputs.prediction], dim=1))
        self._scores.append(scores)

    def finish_test(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Brings the scores of all processes together, on every process, in order of loader and index.

        Returns:
            ``[n, 4]`` int64: loader, index, label, prediction; and ``[n, detectors]`` float32.
        """
        empty = torch.empty(0, 4, dtype=torch.int64), torch.empty(0, len(self.suite.detectors))
        rows, scores = (
            gather(torch.cat([part.to(device) for part in (none, *parts)])).cpu()
            for none, parts in zip(empty, (self._rows, self._scores), strict=True)
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
        self.suite.reset()
        self.seen, self._rows, self._scores, self._content = 0, [], [], {}

    def state_dict(self) -> dict[str, Any]:
        """The suite's state and the fingerprint of the images that it was fitted on."""
        return {**self.suite.state_dict(), "images": self.fingerprint}

    def keep(self, state: Mapping[str, Any], content: Callable[[str], str]) -> list[str]:
        """Reuses, of an earlier fit on the same images, the detectors whose arguments have not changed.

        Args:
            state: ``state_dict`` of the earlier fit.
            content: reads a whole set and returns its content, for sets whose files cannot tell.
        """
        if not same_images(state.get("images"), self.fingerprint, content):
            return []
        for name, entry in state["images"].items():
            self.fingerprint[name]["content"] = entry["content"]
        return self.suite.keep(state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the fits of a checkpoint; raises InputError where one is missing or has other arguments."""
        self.fingerprint = state_dict.get("images") or {}
        self.suite.load_state_dict(state_dict)
