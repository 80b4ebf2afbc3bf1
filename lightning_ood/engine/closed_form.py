"""Heads that need no gradient: one exact pass over the training images, then a closed form."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor, nn

from lightning_ood.data.datamodule import OODDataModule
from lightning_ood.data.sets import Batch
from lightning_ood.detectors.batch_fields import index_of, labels_of
from lightning_ood.engine.exact import unchanged
from lightning_ood.engine.module import OODModule
from lightning_ood.errors import InputError
from lightning_ood.features import Features, Head
from lightning_ood.ops.console import rank_zero_print
from lightning_ood.statistics.heads import nearest_mean_head, ridge_head
from lightning_ood.statistics.moments import Moments
from lightning_ood.statistics.sample import Sample

HELD_OUT = 2000  # images on which a ridge regression chooses its shrinkage, at most a fifth of all


class Sums(L.Callback):
    """Sums what a head in closed form needs in a pass over the training images; exact on any number of processes.

    Args:
        classes: K.
        width: D.
        held_out: images in the sample.
    """

    def __init__(self, classes: int, width: int, held_out: int) -> None:
        self.moments = Moments(classes, width)
        self.sample = Sample(held_out, width + 1, dtype=torch.float64)  # the feature, then the label

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Moves the empty sums to the network's device."""
        self.moments.to(pl_module.device)
        self.sample.to(pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Features | None,  # type: ignore[override]
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds a batch of training images."""
        if outputs is None:
            return
        labels = labels_of(outputs)
        self.moments.update(outputs.pooled, labels, outputs.products)
        self.sample.update(torch.cat([outputs.pooled.double(), labels.double()[:, None]], dim=1), index_of(outputs))

    def head(self, kind: str) -> Head:
        """Computes the head, ``ridge`` or ``means``, from the sums over all processes."""
        sums = self.moments.compute()
        count = sums["count"].reshape(self.moments.count.shape)  # torchmetrics squeezes one-element tensors
        of_class = sums["sums"].reshape(self.moments.sums.shape)
        products = sums["products"].reshape(self.moments.products.shape)
        if kind == "means":
            return nearest_mean_head(count, of_class)
        rows = self.sample.draw()
        return ridge_head((count, of_class, products), rows[:, :-1], rows[:, -1].long())


def fit_head(trainer: L.Trainer, module: OODModule, data: OODDataModule) -> None:
    """Sets the classifier's weights to those of the closed form that ``module.finetune`` names.

    Raises:
        InputError: if the classifier is not one linear layer with a bias.
    """
    layer = linear_layer(module)
    assert data.train_set is not None
    images = len(data.train_set)
    probe = module.backbone.probe
    sums = Sums(probe.num_classes, probe.num_features, max(1, min(HELD_OUT, images // 5)))
    module.backbone.configure()
    everyone: Any = trainer.callbacks  # type: ignore[attr-defined]
    reads_val_ood, data.reads_val_ood = data.reads_val_ood, False
    trainer.callbacks = [sums, *(one for one in everyone if isinstance(one, ProgressBar))]  # type: ignore[attr-defined]
    try:
        with unchanged(module, "the pass for its head"):
            trainer.validate(module, datamodule=data, verbose=False)
    finally:
        trainer.callbacks, data.reads_val_ood = everyone, reads_val_ood  # type: ignore[attr-defined]
    device = trainer.strategy.root_device
    for statistic in (sums.moments, sums.sample):
        statistic.to(device)
    with torch.no_grad():
        head = sums.head(module.finetune)
        copy_to(layer.weight, head.weight)
        copy_to(layer.bias, head.bias)
    what = {"ridge": "a ridge regression", "means": "the nearest class mean"}[module.finetune]
    rank_zero_print(f"The head is {what}, in closed form, of {images} training images")


def linear_layer(module: OODModule) -> nn.Linear:
    """Returns the classifier that a closed form can replace.

    Raises:
        InputError: if it is not one linear layer with a bias.
    """
    layers = list(module.backbone.classifier)
    if len(layers) == 1 and isinstance(layers[0], nn.Linear) and layers[0].bias is not None:
        return layers[0]
    if not module.backbone.from_images:
        raise InputError(
            f"model.finetune: {module.finetune} replaces a classifier, and that of stored features is a file "
            "(model.weights): write finetune: none"
        )
    given = " and ".join(type(layer).__name__ for layer in layers) or "none"
    raise InputError(
        f"model.finetune: {module.finetune} replaces a classifier that is one linear layer with a bias, and that of a "
        f"{type(module.backbone.network).__name__} is {given}; write finetune: head, which trains it by gradient steps"
    )


def copy_to(parameter: Tensor, values: Tensor) -> None:
    """Copies values into a parameter in place."""
    parameter.copy_(values.to(parameter.device, parameter.dtype))
