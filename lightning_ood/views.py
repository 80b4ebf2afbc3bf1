"""Other views of an image, for detectors that fit on them. A view is a value: two equal ones are computed once."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_ood.errors import InputError
from lightning_ood.hashing import hash_index


@runtime_checkable
class View(Protocol):
    """Turns a batch of images into another one. Hashable, so that detectors that ask for the same view share it."""

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Transforms ``images`` ``[B, 3, H, W]``, as the network reads them; ``index`` ``[B]`` seeds what is random."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Jigsaw:
    """Tiles of an image in random order: pseudo-OOD with ID statistics (Yu et al., CVPR 2023, section 3.2).

    Each tile has side ``floor(size / grid)``. Where that leaves a remainder, its rows and columns stay in place;
    the authors' code fills them with zeros (``border=True``).

    Attributes:
        grid: tiles per side.
        seed: the permutation of an image depends on this and on its index alone.
        border: fill the remainder with zeros, as the authors do.
    """

    grid: int = 3
    seed: int = 0
    border: bool = False

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Shuffles the tiles of ``images`` ``[B, C, H, W]``, one permutation per image."""
        tiles = torch.arange(self.grid**2, device=images.device)
        keys = hash_index(index.to(images.device)[:, None] * self.grid**2 + tiles, self.seed)
        return self.shuffle(images, keys.argsort(dim=1))

    def shuffle(self, images: Tensor, order: Tensor) -> Tensor:
        """Puts tile ``order[b, i]`` of image b at position i (row-major)."""
        b, c, height, width = images.shape
        g, h, w = self.grid, height // self.grid, width // self.grid
        if min(h, w) == 0:
            raise InputError(f"an image of {height}x{width} pixels has no {g}x{g} tiles")
        corner = images[:, :, : g * h, : g * w]
        tiles = corner.reshape(b, c, g, h, g, w).permute(0, 2, 4, 1, 3, 5).reshape(b, g * g, c, h, w)
        tiles = tiles.gather(1, order[:, :, None, None, None].expand_as(tiles))
        shuffled = tiles.reshape(b, g, g, c, h, w).permute(0, 3, 1, 4, 2, 5).reshape(b, c, g * h, g * w)
        out = torch.zeros_like(images) if self.border else images.clone()
        out[:, :, : g * h, : g * w] = shuffled
        return out
