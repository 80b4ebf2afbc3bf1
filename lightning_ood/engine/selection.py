"""Checkpoint selection by NAC-ME, as an alternative to the validation accuracy."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

from lightning_ood.backbone.inspect import evaluating
from lightning_ood.data.sampling import ExactSampler
from lightning_ood.data.sets import ImageSet, collate
from lightning_ood.data.workers import start_worker
from lightning_ood.detectors.nac import POOLED
from lightning_ood.detectors.nac_me import NACME, DivideBy, Ones
from lightning_ood.errors import InputError
from lightning_ood.features import Reads

if TYPE_CHECKING:
    from lightning_ood.data.datamodule import OODDataModule
    from lightning_ood.engine.module import OODModule


class NACMECallback(L.Callback):
    """Logs NAC-ME as ``val/nac_me``, for ``ModelCheckpoint(monitor="val/nac_me", mode="max")`` to choose by.

    At the end of each validation epoch of the training, or of each epoch where there are no validation images, one
    exact pass over plain ID images (each once, test preprocessing, over all processes). The network is in eval mode
    meanwhile and in the mode it was in afterwards; no random number of the training is used up.

    Args:
        on: the images: training images, as in the paper, or validation images.
        layer: ``pooled`` or a tap; a tap costs a backward pass too.
        samples: O, how many images make a bin count as covered. The default, the authors', is for tens of thousands.
        bins: M, the number of edges.
        alpha: steepness of the sigmoid.
        correct_only: count only correctly classified images.
        ones: what becomes of a saturated state: see :class:`lightning_ood.detectors.nac_me.NACME`.
        divide_by: see :class:`lightning_ood.detectors.nac_me.NACME`.
    """

    def __init__(
        self,
        on: Literal["train", "val"] = "train",
        layer: str = POOLED,
        samples: int = 500,
        bins: int = 50,
        alpha: float = 0.1,
        correct_only: bool = True,
        ones: Ones = "drop",
        divide_by: DivideBy = "edges",
    ) -> None:
        self.on, self.layer = on, layer
        self.make = partial(
            NACME,
            layer=layer,
            samples=samples,
            bins=bins,
            alpha=alpha,
            correct_only=correct_only,
            ones=ones,
            divide_by=divide_by,
        )
        self.metric: NACME | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Configures the tap to read; nothing else reads features during training.

        Raises:
            InputError: if the layer does not exist, or ``on`` is ``val`` and there are no validation images.
        """
        module: OODModule = pl_module  # type: ignore[assignment]
        info = module.backbone.info()
        if self.layer == POOLED and info.head is None:
            raise InputError("NAC-ME reads the weights of a linear classifier, which this network lacks; name a tap")
        taps = () if self.layer == POOLED else (self.layer,)
        with evaluating(module):
            module.backbone.configure(Reads(taps=taps, gradients=taps))
        neurons = info.num_features if self.layer == POOLED else info.maps[self.layer][0]
        self.metric = self.make(neurons).to(module.device)
        self._images(trainer)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs NAC-ME after the validation pass of a training epoch."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._log(trainer, pl_module)  # type: ignore[arg-type]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs NAC-ME after a training epoch if there are no validation images."""
        data: OODDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if data.val_set is None:
            self._log(trainer, pl_module)  # type: ignore[arg-type]

    def _log(self, trainer: L.Trainer, module: OODModule) -> None:
        assert self.metric is not None
        self.metric.reset()
        with isolate_rng(), torch.no_grad(), evaluating(module):
            for batch in self._loader(trainer):
                if len(batch.index) == 0:
                    continue
                batch = trainer.precision_plugin.convert_input(batch)
                batch = trainer.strategy.batch_to_device(batch, module.device)
                with trainer.precision_plugin.val_step_context():
                    self.metric.update(module.features(batch))
        module.log("val/nac_me", self.metric.compute().float(), prog_bar=True)

    def _loader(self, trainer: L.Trainer) -> DataLoader:
        images = self._images(trainer)
        data: OODDataModule = trainer.datamodule  # type: ignore[attr-defined]
        return DataLoader(
            images,
            batch_size=data.batch_size,
            sampler=ExactSampler(len(images), trainer.global_rank, trainer.world_size),
            num_workers=data.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=start_worker,
        )

    def _images(self, trainer: L.Trainer) -> ImageSet:
        data: OODDataModule = trainer.datamodule  # type: ignore[attr-defined]
        images = data.train_set if self.on == "train" else data.val_set
        if images is None:
            raise InputError("NAC-ME on validation images needs data.id.val; or write on: train")
        return images
