"""A toy network of a few thousand weights and toy images, on which detectors are tested."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ood.features import Features, Head, NetworkInfo, Reads

CLASSES, CHANNELS, SIDE = 5, (8, 12, 16), 6
BLOCKS = ("block1", "block2", "last")


@dataclass(frozen=True)
class Images:
    """Images ``pixels`` ``[B, 3, 12, 12]``, ``labels`` ``[B]`` and positions in the set ``index`` ``[B]``."""

    pixels: Tensor
    labels: Tensor
    index: Tensor


@dataclass
class Toy:
    """Three convolutions with fixed weights, a mean over space and a linear classifier fitted by least squares.

    The last of its 5 classes has no images and the first of its 16 units is dead; every detector has to handle both. ID
    images are a pattern per class with noise. OOD images are weak noise, on which the network has low confidence.

    Args:
        attention: whether it imitates a class token: two heads, attention over the positions of the last map.
        signed: leave out the last rectification, so that features can be negative.
        seed: seed of weights and images.
    """

    attention: bool = False
    signed: bool = False
    seed: int = 0
    head: Head = field(init=False)

    def __post_init__(self) -> None:
        draw = torch.Generator().manual_seed(self.seed)
        shapes = zip((3, *CHANNELS), CHANNELS, strict=False)
        self._kernels = [torch.randn(o, i, 3, 3, generator=draw) * (2 / (9 * i)) ** 0.5 for i, o in shapes]
        self._kernels[-1][0] = 0  # the dead unit
        self._heads = torch.randn(2, CHANNELS[-1], generator=draw)
        self._patterns = torch.randn(CLASSES - 1, 3, 2 * SIDE, 2 * SIDE, generator=draw)
        train = self.train()
        pooled = self._maps(train.pixels)["last"].flatten(2).mean(2)
        target = 10.0 * F.one_hot(train.labels, CLASSES) - 2.0
        ridge = pooled.T @ pooled + 1e-2 * torch.eye(CHANNELS[-1])
        bias = torch.linspace(-0.2, 0.2, CLASSES)
        self.head = Head(torch.linalg.solve(ridge, pooled.T @ (target - bias)).T.contiguous(), bias)

    def info(self, labels: Tensor | None = None) -> NetworkInfo:
        """Returns the description of the network, and of a fit set with ``labels`` ``[N]``."""
        sides = (SIDE, SIDE)
        return NetworkInfo(
            num_features=CHANNELS[-1],
            num_classes=CLASSES,
            head=self.head,
            maps={tap: torch.Size((c, *sides)) for tap, c in zip(BLOCKS, CHANNELS, strict=True)},
            blocks=BLOCKS,
            attention=(2, SIDE**2 + 1) if self.attention else None,
            labels=labels,
        )

    def train(self, size: int = 400) -> Images:
        """Draws ID training images."""
        return self._id_images(size, self.seed + 1)

    def id_test(self, size: int = 48) -> Images:
        """Draws ID test images."""
        return self._id_images(size, self.seed + 2)

    def ood_test(self, size: int = 48) -> Images:
        """Draws OOD test images."""
        pixels = 0.3 * torch.randn(size, 3, 2 * SIDE, 2 * SIDE, generator=torch.Generator().manual_seed(self.seed + 3))
        return Images(pixels, torch.zeros(size, dtype=torch.int64), torch.arange(size))

    def __call__(self, images: Images, reads: Reads) -> Features:
        """Computes the features of images, only the fields in ``reads``, so that undeclared reading raises."""
        maps = self._maps(images.pixels)  # [B, C, 6, 6] each
        pooled = maps["last"].flatten(2).mean(2)  # [B, 16]
        view_of = {view: replace(images, pixels=view(images.pixels, images.index)) for view in reads.views}
        inner = replace(reads, views=(), perturbations=())
        return Features(
            logits=self.head(pooled),
            pooled=pooled,
            head=self.head if reads.head else None,
            maps={tap: maps[tap] for tap in reads.taps},
            gradients=self._gradients(images.pixels, reads.gradients),
            attention=self._attention(maps["last"]) if reads.attention else None,
            labels=images.labels,
            index=images.index,
            views={**{view: self(changed, inner) for view, changed in view_of.items()}, **self._stepped(images, reads)},
        )

    @torch.enable_grad()
    def _stepped(self, images: Images, reads: Reads) -> dict[Hashable, Features]:
        """Computes the features of the perturbed images, for each perturbation."""
        pixels = images.pixels.detach().requires_grad_(bool(reads.perturbations))
        inner = replace(reads, views=(), perturbations=())
        stepped: dict[Hashable, Features] = {}
        for step in reads.perturbations:
            gradient = torch.autograd.grad(step.loss(self(replace(images, pixels=pixels), inner)).sum(), pixels)[0]
            stepped[step] = self(replace(images, pixels=step(pixels, gradient)), inner)
        return stepped

    def _id_images(self, size: int, seed: int) -> Images:
        draw = torch.Generator().manual_seed(seed)
        labels = torch.arange(size) % (CLASSES - 1)
        pixels = 1.5 * self._patterns[labels] + 0.3 * torch.randn(size, 3, 2 * SIDE, 2 * SIDE, generator=draw)
        return Images(pixels, labels, torch.arange(size))

    def _maps(self, pixels: Tensor) -> dict[str, Tensor]:
        first, second, third = self._kernels
        block1 = F.conv2d(pixels, first, stride=2, padding=1).relu()
        block2 = F.conv2d(block1, second, padding=1).relu()
        last = F.conv2d(block2, third, padding=1)
        return {"block1": block1, "block2": block2, "last": last if self.signed else last.relu()}

    @torch.enable_grad()
    def _gradients(self, pixels: Tensor, taps: Iterable[str]) -> dict[str, Tensor]:
        """Computes the gradient of KL(uniform || softmax) by each map."""
        taps = list(taps)
        if not taps:
            return {}
        maps = self._maps(pixels.clone().requires_grad_())
        loss = -self.head(maps["last"].flatten(2).mean(2)).log_softmax(1).mean(1).sum()
        return dict(zip(taps, torch.autograd.grad(loss, [maps[tap] for tap in taps]), strict=True))

    def _attention(self, last: Tensor) -> Tensor:
        keys = torch.einsum("bcn,hc->bhn", last.flatten(2), self._heads)  # [B, heads, positions]
        return F.pad(keys, (1, 0)).softmax(dim=2)  # [B, heads, 1 + positions]


def permuted(features: Features, order: Tensor) -> Features:
    """Returns a batch of the same network with its penultimate units in another ``order`` ``[D]``."""
    head = features.head

    def moved(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {tap: value[:, order] if tap == "last" else value for tap, value in maps.items()}

    return replace(
        features,
        pooled=features.pooled[:, order],
        head=replace(head, weight=head.weight[:, order]) if head else None,
        maps=moved(features.maps),
        gradients=moved(features.gradients),
        views={view: permuted(inner, order) for view, inner in features.views.items()},
    )
