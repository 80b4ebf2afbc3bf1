"""The backbone of stored features: rows of a table become ``Features`` without a network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from lightning_ood.backbone.backbone import Backbone
from lightning_ood.backbone.probe import Probe
from lightning_ood.errors import InputError
from lightning_ood.features import Features, Head, Reads
from lightning_ood.networks.stored import StoredFeatures
from lightning_ood.views.perturbation import Perturbation


def make_backbone(network: nn.Module, *arguments: Any, **options: Any) -> Backbone:
    """Makes the backbone of a network, or of stored features; the arguments are those of ``Backbone``."""
    kind = StoredBackbone if isinstance(network, StoredFeatures) else Backbone
    return kind(network, *arguments, **options)


class StoredBackbone(Backbone):
    """Takes rows of stored features in place of images. It has no maps, attention, gradients of maps, or views."""

    from_images = False
    network: StoredFeatures

    @cached_property
    def probe(self) -> Probe:
        """Structure of the network: its numbers of classes and features."""
        return Probe((), self.network.head, self.network.num_classes, self.network.num_features, {}, ())

    @property
    def classifier(self) -> nn.ModuleList:
        """An empty list: nothing here can be trained."""
        return nn.ModuleList()

    @property
    def head(self) -> Head | None:
        """The linear classifier; None where there is none."""
        return Head(self.network.weight.detach(), self.network.bias.detach()) if self.network.head else None

    def configure(self, reads: Reads | None = None) -> None:
        """Checks that stored features suffice for what is read.

        Raises:
            InputError: if a map, attention, a view or a perturbation is read.
        """
        reads = Reads() if reads is None else reads
        if reads.taps or reads.gradients or reads.attention or reads.views or reads.perturbations:
            raise InputError("stored features hold logits and penultimate feature alone; leave out what reads more")
        self._reads, self._next = reads, 0

    def forward(
        self, images: Tensor, labels: Tensor | None = None, index: Tensor | None = None, views: bool = True
    ) -> Features:
        """Takes rows ``[B, K + D]`` or ``[B, D]`` apart; the other arguments are those of ``Backbone.forward``."""
        if not isinstance(images, Tensor) or images.ndim != 2:
            raise InputError("this detector reads stored features, not images: give a table with `pooled` and `logits`")
        return super().forward(images, labels, index, views)

    def _run(
        self, images: Tensor, labels: Tensor | None, index: Tensor, perturbations: Sequence[Perturbation] = ()
    ) -> tuple[Features, dict[Perturbation, Tensor]]:
        logits, pooled = self.network.split(images.float())
        return Features(logits=logits, pooled=pooled, head=self.head, labels=labels, index=index), {}

    def trace(self, images: Tensor) -> Features:
        """Raises an InputError: a graph takes images."""
        raise InputError("a graph takes images, and this run has stored features: export with --format folder")

    @cached_property
    def _attention_shape(self) -> tuple[int, int] | None:
        return None
