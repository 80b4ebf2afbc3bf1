"""The LightningModule: a network as a backbone, frozen or trained here, whose steps return ``Features``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_ood.backbone.cache import FeatureCache
from lightning_ood.backbone.inspect import logits_of
from lightning_ood.backbone.stored import make_backbone
from lightning_ood.data.datamodule import OODDataModule, data_root
from lightning_ood.data.sets import Batch
from lightning_ood.engine.run_dir import with_checksums
from lightning_ood.errors import InputError
from lightning_ood.features import Features
from lightning_ood.networks.build import build
from lightning_ood.ops.checksums import weights_hash
from lightning_ood.ops.memory import keep_freed_memory
from lightning_ood.report.environment import environment

Finetune = Literal["none", "head", "all", "ridge", "means"]


@dataclass(frozen=True)
class Training:
    """How ``fit`` trains what ``finetune`` names.

    Attributes:
        optimizer: makes the optimizer of the trained parameters.
        warmup: share of the training steps over which the learning rate rises; it falls along a cosine afterwards.
        label_smoothing: of the cross-entropy.
    """

    optimizer: OptimizerCallable = torch.optim.AdamW
    warmup: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name in ("warmup", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"training.{name}={getattr(self, name)} is no share: write a number from 0 to 1")


@dataclass(frozen=True)
class Reading:
    """How the network is read: it changes speed and disk space, not what the network is.

    Attributes:
        cache: folder of a feature cache; None caches nothing.
        cache_gb: largest size of the cache, in GB.
        channels_last: keep images and weights with the channel innermost: faster convolutions on a GPU's tensor cores,
            and on a CPU (1.3 to 1.4 times). Scores differ by rounding alone.
        compile: backend of ``torch.compile``, such as ``inductor``, for passes that take no gradient; eager where None.
        allow_random: accept a network whose answers differ each time, or with the other images of a batch.
        keep_memory: on a CPU, keep the memory of freed tensors for the next layer: faster, and the process does not
            shrink (``ops.memory``).
    """

    cache: str | None = None
    cache_gb: float = 20.0
    channels_last: bool = False
    compile: str | None = None
    allow_random: bool = False
    keep_memory: bool = True


class OODModule(L.LightningModule):
    """A pretrained image classifier whose features are read, or a small one that ``fit`` trains first.

    Args:
        head: name of the classifier's module, where it cannot be found.
        finetune: what ``fit`` trains before it fits the detectors: ``none``, the ``head`` (linear probing) or ``all``;
            or the head in closed form, in one more pass: ``ridge``, or ``means`` (the nearest class mean, with which
            detectors that read logits are left out).
        training: how it trains.
        reading: how the network is read.
        root: folder that relative weight paths start from; the data's root where None.
        network: which network: the arguments of ``networks.build.build`` (name, network, weights, options, preprocess).
    """

    def __init__(
        self,
        head: str | None = None,
        finetune: Finetune = "none",
        training: Training = Training(),
        reading: Reading = Reading(),
        root: str | None = None,
        **network: Any,
    ) -> None:
        super().__init__()
        built = build(root=data_root(root), **network)
        self.preprocess = built.preprocess
        self.source = built.source
        self.backbone = make_backbone(
            built.network,
            built.preprocess.size,
            head,
            built.preprocess.mean,
            built.preprocess.std,
            reading.channels_last,
            reading.compile,
            reading.allow_random,
        )
        if reading.cache is not None:
            self.backbone.cache = FeatureCache(reading.cache, int(reading.cache_gb * 1e9))
        self.finetune, self.training_options, self.keep_memory = finetune, training, reading.keep_memory
        self.accuracy = MulticlassAccuracy(self.backbone.probe.num_classes, average="micro")
        self.strict_loading = False  # frozen weights stay out of the checkpoint
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a process may have no image
        self.freeze()
        if trained := self._trained():
            trained.requires_grad_(True)

    def train(self, mode: bool = True) -> OODModule:
        """Puts only the trainable part in train mode, so frozen batch norms keep their running statistics."""
        super().train(False)
        if mode and (trained := self._trained()):
            trained.train()
        self.training = mode
        return self

    def _trained(self) -> nn.Module | None:
        """Returns the part that ``fit`` trains by gradient steps, if any."""
        return {"head": self.backbone.classifier, "all": self.backbone.network}.get(self.finetune)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, K]`` of preprocessed images ``[B, 3, H, W]``."""
        return logits_of(self.backbone.network(images))

    def features(self, batch: Batch, views: bool = True, labelled: bool = True) -> Features:
        """Everything that the backbone was configured to read, from one forward (and one per view and perturbation)."""
        return self.backbone(batch.image, batch.label if labelled else None, batch.index, views)

    def setup(self, stage: str) -> None:
        """Settles where freed memory goes, before the first batch."""
        if self.keep_memory and self.trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()

    def on_fit_start(self) -> None:
        """Switches to train mode: Lightning leaves the mode as it finds it.

        Raises:
            InputError: if the validation images cannot say which epoch is the best.
        """
        data: OODDataModule | None = self.trainer.datamodule  # type: ignore[attr-defined]
        images = data.val_set if data is not None else None
        chooses = any(getattr(c, "monitor", None) == "val/accuracy" for c in self.trainer.callbacks)  # type: ignore[attr-defined]
        if data is not None and images is None and chooses:
            raise InputError("choosing by val/accuracy needs validation images: give data.id.val")
        if images is not None and len(images) < self.trainer.world_size:
            # Lightning leaves out the validation hooks of a process without images, and the others wait for it
            raise InputError(
                f"data.id.val: {images.name} has {len(images)} images, fewer than the {self.trainer.world_size} "
                "processes; give more images or use fewer processes"
            )
        self.train()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the cross-entropy of a batch of training images, a 0-d tensor."""
        logits = self(batch.image)
        if not isinstance(logits, Tensor):
            raise InputError(
                f"a {type(self.backbone.network).__name__} returns auxiliary outputs while it is trained "
                f"({type(logits).__name__}); switch them off (torchvision: options.aux_logits: false), or return the "
                "logits alone"
            )
        loss = F.cross_entropy(logits, batch.label, label_smoothing=self.training_options.label_smoothing)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Updates the validation accuracy during training; returns the features of the batch in the fit pass."""
        if self.trainer.state.fn == TrainerFn.VALIDATING:
            training = dataloader_idx == 0  # a validation OOD set has neither views nor labels
            data: OODDataModule | None = self.trainer.datamodule  # type: ignore[attr-defined]
            labelled = training and (data is None or data.labels is not None)
            return self.features(batch, training, labelled) if len(batch.index) else None
        if len(batch.index):
            self.accuracy.update(self(batch.image), batch.label)
        return None

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/accuracy``, which a ``ModelCheckpoint`` can monitor."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.log("val/accuracy", self.accuracy.compute(), prog_bar=True)
            self.accuracy.reset()

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Returns the features of a batch of test images."""
        return self.features(batch) if len(batch.index) else None

    def configure_optimizers(self) -> Any:
        """Returns the optimizer with linear warm-up and cosine decay, stepped per batch."""
        optimizer = self._optimizer()
        steps = int(self.trainer.estimated_stepping_batches)
        rise = max(1, round(self.training_options.warmup * steps))
        schedule = torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.04, total_iters=rise),
                torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, steps - rise)),
            ],
            milestones=[rise],
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _optimizer(self) -> torch.optim.Optimizer:
        try:
            optimizer = self.training_options.optimizer(p for p in self.parameters() if p.requires_grad)
        except ValueError as error:  # torch refuses what is out of range
            raise InputError(f"training.optimizer: {error}") from error
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        if not all(0 < rate < float("inf") for rate in rates):
            raise InputError(f"training.optimizer: the learning rate {rates[0]} trains nothing: write one above 0")
        return optimizer

    def weights_hash(self) -> str:
        """Returns the SHA-256 of the network's weights, buffers and head included."""
        return weights_hash(self.backbone.network)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Saves source, hashes and precision of the network, and the environment; adds checksums, omits frozen weights.

        Lightning calls this hook last: the checksums are those of all that is saved.
        """
        run_in = {"precision": self.trainer.precision} if self._trainer is not None else {}
        checkpoint["backbone"] = {"source": str(self.source), "hash": self.weights_hash(), **run_in}
        checkpoint["backbone"]["file_sha256"] = self.source.sha256
        checkpoint["environment"] = environment()
        if self.finetune == "none":
            checkpoint["state_dict"] = {}
        checkpoint |= with_checksums(checkpoint)
