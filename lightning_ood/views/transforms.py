"""Other views of an image, for detectors that fit on them. A view is a value: two equal ones are computed once."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_ood.errors import InputError
from lightning_ood.ops.hashing import hash_index
from lightning_ood.ops.transfer import beside


class View(ABC):
    """Turns a batch of images into another one. Hashable, so that detectors that ask for the same view share it."""

    @abstractmethod
    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Transforms ``images`` ``[B, 3, H, W]``, as the network reads them.

        ``index`` ``[B]``, on the host, seeds what is random: ``ops.transfer.beside`` brings it to them.
        """


@dataclass(frozen=True)
class Jigsaw(View):
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
        tiles = torch.arange(self.grid**2, device=index.device)
        keys = hash_index(index[:, None] * self.grid**2 + tiles, self.seed)
        return self.shuffle(images, beside(keys.argsort(dim=1), images))

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


@dataclass(frozen=True)
class Raw(View):
    """The image in [0, 1], its normalisation undone: what FeatureNorm's authors choose a block on.

    Attributes:
        mean: what the preprocessing subtracted, per channel.
        std: what it divided by.
        then: another view, of the raw image; none where None.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    then: View | None = None

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Undoes the normalisation of ``images`` ``[B, 3, H, W]``."""
        mean, std = (beside(torch.tensor(v, dtype=images.dtype)[:, None, None], images) for v in (self.mean, self.std))
        raw = images * std + mean
        return raw if self.then is None else self.then(raw, index)


@dataclass(frozen=True)
class Rotate(View):
    """A quarter, half or three-quarter turn, drawn per image: every pixel is kept and no border arises.

    A rectangular image makes half turns only, since its sides would be swapped.

    Attributes:
        turns: quarter turns; drawn from 1, 2 and 3 per image where None.
        seed: of the draw.
    """

    turns: int | None = None
    seed: int = 0

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Turns ``images`` ``[B, C, H, W]`` counter-clockwise."""
        square = images.shape[2] == images.shape[3]
        drawn = hash_index(beside(index, images), self.seed, stream=1) % 3 + 1
        turns = (torch.full_like(drawn, self.turns) if self.turns is not None else drawn) % 4
        turned = images.clone()
        for k in (1, 2, 3) if square else (2,):
            here = turns == k if square else torch.ones_like(turns, dtype=torch.bool)
            turned = torch.where(here[:, None, None, None], images.rot90(k, dims=(2, 3)), turned)
        return turned


@dataclass(frozen=True)
class Blur(View):
    """A Gaussian blur with mirrored edges.

    Attributes:
        share: standard deviation of the kernel, as a share of the shorter side of the image (0.06 of 32 pixels: 2).
    """

    share: float = 0.06

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Blurs ``images`` ``[B, C, H, W]``."""
        side = min(images.shape[2:])
        sigma = max(self.share * side, 1e-3)
        reach = min(int(3 * sigma + 0.5), side - 1)
        offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float32)
        kernel = (-(offsets**2) / (2 * sigma**2)).exp()
        kernel = (kernel / kernel.sum()).to(images.dtype).expand(images.shape[1], 1, 1, -1)
        padded = F.pad(images, (reach, reach, reach, reach), mode="reflect")
        rows = F.conv2d(padded, kernel, groups=images.shape[1])
        return F.conv2d(rows, kernel.transpose(2, 3), groups=images.shape[1])


@dataclass(frozen=True)
class Noise(View):
    """Independent Gaussian noise on every pixel and channel.

    Attributes:
        std: in units of the normalised input (1 is the spread of the data set's pixels).
        seed: the noise of an image depends on this and on its index alone.
    """

    std: float = 1.0
    seed: int = 0

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Adds noise to ``images`` ``[B, C, H, W]``."""
        first, second = (_uniform(images, index, self.seed, stream) for stream in (2, 3))
        normal = (-2 * first.log()).sqrt() * (2 * torch.pi * second).cos()  # Box and Muller
        return images + self.std * normal.to(images.dtype)


@dataclass(frozen=True)
class Invert(View):
    """The negative: each normalised value with its sign turned, the data set's mean colour being the centre."""

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Inverts ``images`` of any shape."""
        return -images


@dataclass(frozen=True)
class PhaseScramble(View):
    """Random phases under the image's own amplitude spectrum: its colours and frequencies without its shapes.

    All channels of an image turn by the same phases, so that their colours stay correlated. The mean stays.

    Attributes:
        seed: the phases of an image depend on this and on its index alone.
    """

    seed: int = 0

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Scrambles ``images`` ``[B, C, H, W]``."""
        noise = torch.fft.rfft2(_uniform(images[:, :1], index, self.seed, 4).float() - 0.5)
        phase = torch.polar(torch.ones_like(noise.real), noise.angle())  # of a real image, hence symmetric
        phase[..., 0, 0] = 1
        return torch.fft.irfft2(torch.fft.rfft2(images.float()) * phase, s=images.shape[2:]).to(images.dtype)


@dataclass(frozen=True)
class Crop(View):
    """A part of the image, enlarged to its full size: surfaces of objects without their outline.

    Attributes:
        share: side of the part, as a share of the image's.
        seed: the place of an image's part depends on this and on its index alone.
    """

    share: float = 0.375
    seed: int = 0

    def __call__(self, images: Tensor, index: Tensor) -> Tensor:
        """Enlarges a part of each of ``images`` ``[B, C, H, W]``, bilinearly."""
        place = torch.stack([_share(hash_index(beside(index, images), self.seed, s)) for s in (5, 6)], dim=1)
        shift = ((2 * place - 1) * (1 - self.share)).to(images.dtype)  # centre of the part, in [-1, 1]
        grow = torch.eye(2, device=images.device, dtype=images.dtype).expand(len(images), 2, 2) * self.share
        grid = F.affine_grid(torch.cat([grow, shift[:, :, None]], dim=2), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _share(hashed: Tensor) -> Tensor:
    """Hashes as numbers in (0, 1), float64 where the device has it."""
    return ((hashed >> 31).to(torch.float32 if hashed.device.type == "mps" else torch.float64) + 0.5) / 2**32


def _uniform(images: Tensor, index: Tensor, seed: int, stream: int) -> Tensor:
    """A number in (0, 1) for each entry of ``images``, from the image's index and the place of the entry."""
    entries = images[0].numel()
    places = torch.arange(entries, device=images.device)
    keys = beside(index, images)[:, None] * entries + places
    return _share(hash_index(keys, seed, stream)).view(images.shape)
