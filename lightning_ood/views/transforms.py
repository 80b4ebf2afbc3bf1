"""Transforms of images, for detectors that fit on them. Views compare by value, and equal ones are computed once."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ood.errors import InputError
from lightning_ood.ops.hashing import hash_index
from lightning_ood.ops.transfer import beside


class View(ABC):
    """A transform of a batch of images. Hashable, so that detectors that need the same view share its features."""

    @abstractmethod
    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Transforms ``images`` ``[B, 3, H, W]``, preprocessed as for the network.

        ``index`` ``[B]`` seeds random draws. It is on the host; ``ops.transfer.beside`` copies it to the device.
        """


@dataclass(frozen=True)
class Jigsaw(View):
    """Shuffles the tiles of an image: pseudo-OOD with the statistics of ID (Yu et al., CVPR 2023, section 3.2).

    Each tile has side ``floor(size / grid)``. Remaining rows and columns stay in place; the authors' code fills them
    with zeros (``border=True``).

    Attributes:
        grid: tiles per side.
        seed: seed of the permutation, which depends on it and on the image's index alone.
        border: fill the remainder with zeros, as the authors do.
    """

    grid: int = 3
    seed: int = 0
    border: bool = False

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Shuffles the tiles of ``images`` ``[B, C, H, W]``, one permutation per image."""
        tiles = torch.arange(self.grid**2, device=index.device)
        keys = hash_index(index[:, None] * self.grid**2 + tiles, self.seed)  # [B, g * g]
        return self.shuffle(images, beside(keys.argsort(dim=1), images))

    def shuffle(self, images: Tensor, order: Tensor) -> Tensor:
        """Moves tile ``order[b, i]`` of image b to position i (row-major); ``order`` is ``[B, g * g]``."""
        b, c, height, width = images.shape
        g, h, w = self.grid, height // self.grid, width // self.grid
        if min(h, w) == 0:
            raise InputError(f"an image of {height}x{width} pixels has no {g}x{g} tiles; write a smaller grid")
        corner = images[:, :, : g * h, : g * w]  # [B, C, g * h, g * w], without the remainder
        # [B, C, g, h, g, w] -> [B, g, g, C, h, w] -> [B, g * g, C, h, w]
        tiles = corner.reshape(b, c, g, h, g, w).permute(0, 2, 4, 1, 3, 5).reshape(b, g * g, c, h, w)
        tiles = tiles.gather(1, order[:, :, None, None, None].expand_as(tiles))
        # [B, g, g, C, h, w] -> [B, C, g, h, g, w] -> [B, C, g * h, g * w]
        shuffled = tiles.reshape(b, g, g, c, h, w).permute(0, 3, 1, 4, 2, 5).reshape(b, c, g * h, g * w)
        out = torch.zeros_like(images) if self.border else images.clone()
        out[:, :, : g * h, : g * w] = shuffled
        return out


@dataclass(frozen=True)
class Raw(View):
    """Undoes the normalisation: the image in [0, 1], on which FeatureNorm's authors choose a block.

    Attributes:
        mean: per-channel mean that the preprocessing subtracted.
        std: per-channel standard deviation that it divided by.
        then: a view that is applied to the raw image; none where None.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    then: View | None = None

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Undoes the normalisation of ``images`` ``[B, 3, H, W]``."""
        # Both [3, 1, 1].
        mean, std = (beside(torch.tensor(v, dtype=images.dtype)[:, None, None], images) for v in (self.mean, self.std))
        raw = images * std + mean
        return raw if self.then is None else self.then(raw, index)


@dataclass(frozen=True)
class Rotate(View):
    """Rotates an image by 90, 180 or 270 degrees, drawn per image. All pixels are kept and no border appears.

    A rectangular image is rotated by 180 degrees only, since a quarter turn would swap its sides.

    Attributes:
        turns: number of quarter turns; drawn from 1, 2 and 3 per image where None.
        seed: seed of the draw.
    """

    turns: int | None = None
    seed: int = 0

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Rotates ``images`` ``[B, C, H, W]`` counter-clockwise."""
        square = images.shape[2] == images.shape[3]
        drawn = hash_index(beside(index, images), self.seed, stream=1) % 3 + 1
        turns = (torch.full_like(drawn, self.turns) if self.turns is not None else drawn) % 4  # [B]
        turned = images.clone()
        for k in (1, 2, 3) if square else (2,):
            selected = turns == k if square else torch.ones_like(turns, dtype=torch.bool)  # [B]
            turned = torch.where(selected[:, None, None, None], images.rot90(k, dims=(2, 3)), turned)
        return turned


@dataclass(frozen=True)
class Blur(View):
    """Blurs an image with a Gaussian kernel; edges are mirrored.

    Attributes:
        share: standard deviation of the kernel, as a fraction of the image's shorter side (0.06 of 32 pixels: 2).
    """

    share: float = 0.06

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Blurs ``images`` ``[B, C, H, W]``."""
        side = min(images.shape[2:])
        sigma = max(self.share * side, 1e-3)
        reach = min(int(3 * sigma + 0.5), side - 1)
        offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float32)
        kernel = (-(offsets**2) / (2 * sigma**2)).exp()
        kernel = (kernel / kernel.sum()).to(images.dtype).expand(images.shape[1], 1, 1, -1)  # [C, 1, 1, 2 * reach + 1]
        padded = F.pad(images, (reach, reach, reach, reach), mode="reflect")
        rows = F.conv2d(padded, kernel, groups=images.shape[1])  # [B, C, H + 2 * reach, W]
        return F.conv2d(rows, kernel.transpose(2, 3), groups=images.shape[1])


@dataclass(frozen=True)
class Noise(View):
    """Adds independent Gaussian noise to every pixel and channel.

    Attributes:
        std: standard deviation, in units of the normalised input (1 is the spread of the data set's pixels).
        seed: seed of the noise, which depends on it and on the image's index alone.
    """

    std: float = 1.0
    seed: int = 0

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Adds noise to ``images`` ``[B, C, H, W]``."""
        first, second = (_uniform(images, index, self.seed, stream) for stream in (2, 3))
        normal = (-2 * first.log()).sqrt() * (2 * torch.pi * second).cos()  # Box-Muller transform
        return images + self.std * normal.to(images.dtype)


@dataclass(frozen=True)
class Invert(View):
    """Inverts colours: flips the sign of each normalised value, so the data set's mean colour stays."""

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Inverts ``images`` of any shape."""
        return -images


@dataclass(frozen=True)
class PhaseScramble(View):
    """Randomises the phases of an image's spectrum: keeps colours and frequencies, removes shapes.

    The amplitude spectrum and the mean stay. The same phases are added in all channels, so colours stay correlated.

    Attributes:
        seed: seed of the phases, which depend on it and on the image's index alone.
    """

    seed: int = 0

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Scrambles ``images`` ``[B, C, H, W]``."""
        noise = torch.fft.rfft2(_uniform(images[:, :1], index, self.seed, 4).float() - 0.5)  # [B, 1, H, W // 2 + 1]
        phase = torch.polar(torch.ones_like(noise.real), noise.angle())  # symmetric, as the noise is real
        phase[..., 0, 0] = 1
        return torch.fft.irfft2(torch.fft.rfft2(images.float()) * phase, s=images.shape[2:]).to(images.dtype)


@dataclass(frozen=True)
class Crop(View):
    """Enlarges a crop to the full image size: shows surfaces of objects without their outline.

    Attributes:
        share: side of the crop, as a fraction of the image's side.
        seed: seed of the crop's position, which depends on it and on the image's index alone.
    """

    share: float = 0.375
    seed: int = 0

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Enlarges a crop of each of ``images`` ``[B, C, H, W]``, bilinearly."""
        position = torch.stack([_share(hash_index(beside(index, images), self.seed, s)) for s in (5, 6)], dim=1)
        shift = ((2 * position - 1) * (1 - self.share)).to(images.dtype)  # [B, 2], centre of the crop in [-1, 1]
        scale = torch.eye(2, device=images.device, dtype=images.dtype).expand(len(images), 2, 2) * self.share
        affine = torch.cat([scale, shift[:, :, None]], dim=2)  # [B, 2, 3]
        grid = F.affine_grid(affine, list(images.shape), align_corners=False)  # [B, H, W, 2]
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _share(hashed: Tensor) -> Tensor:
    """Converts hashes to numbers in (0, 1), float64 if the device supports it."""
    return ((hashed >> 31).to(torch.float32 if hashed.device.type == "mps" else torch.float64) + 0.5) / 2**32


def _uniform(images: Tensor, index: Tensor, seed: int, stream: int) -> Tensor:
    """Draws a number in (0, 1) for each entry of ``images``, from the image's index and the entry's position."""
    entries = images[0].numel()
    positions = torch.arange(entries, device=images.device)
    keys = beside(index, images)[:, None] * entries + positions  # [B, C * H * W]
    return _share(hash_index(keys, seed, stream)).view(images.shape)
