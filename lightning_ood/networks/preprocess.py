"""Preprocessing of a network: size, interpolation and normalisation, derived from the network's own config."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from lightning_ood.errors import InputError

Transform = Callable[[Image.Image], Tensor]
LARGEST = 2**24  # pixels of a resized image; of a larger one only the part that the crop keeps is computed


@dataclass(frozen=True)
class ResizeShorter:
    """Resizes the shorter side as torchvision does; of a very long image only the part that the centre crop keeps.

    An image of 1 x 30000 pixels would otherwise become one of 256 x 7680000.

    Attributes:
        side: length of the shorter side.
        crop: ``(height, width)`` of the centre crop that follows.
        interpolation: torchvision's.
    """

    side: int
    crop: tuple[int, int]
    interpolation: transforms.InterpolationMode

    def __call__(self, image: Image.Image) -> Image.Image:
        """Returns the resized image, without the ends of a very long one."""
        short, long = sorted(image.size)
        length = int(self.side * long / short)
        if self.side * length <= LARGEST:
            return transforms.Resize(self.side, self.interpolation)(image)
        upright = image.height > image.width
        kept = min(length, self.crop[0] if upright else self.crop[1])
        start = round((length - kept) / 2)
        ends = start * long / length, min((start + kept) * long / length, long)
        mode = Image.Resampling[self.interpolation.name.removesuffix("_EXACT")]
        if upright:
            return image.resize((self.side, kept), mode, (0, ends[0], short, ends[1]))
        return image.resize((kept, self.side), mode, (ends[0], 0, ends[1], short))


@dataclass(frozen=True)
class Preprocess:
    """Resize, centre crop, scaling to [0, 1] and normalisation, on PIL images (as the published numbers were made).

    An image that has the size already is not resampled.

    Attributes:
        size: ``(height, width)`` of the network's input.
        resize: length of the shorter side before the crop, ``(height, width)`` to stretch to, or None for no resizing.
        interpolation: ``bilinear``, ``bicubic``, ``nearest``, ...
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
    """

    size: tuple[int, int]
    resize: int | tuple[int, int] | None
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        names = [mode.value for mode in transforms.InterpolationMode]
        if self.interpolation not in names:
            raise InputError(f"preprocess: interpolation {self.interpolation!r} is none of {', '.join(names)}")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise InputError(f"preprocess: mean {self.mean} and std {self.std} need a value for each of 3 channels")
        sides = self.resize if isinstance(self.resize, tuple) else (1 if self.resize is None else self.resize,)
        if min(*self.size, *sides) < 1 or min(self.std) <= 0:
            raise InputError(f"preprocess: size {self.size}, resize {self.resize} and std {self.std} must be positive")

    def transform(self) -> Transform:
        """The transform of test images, and of the training images that detectors are fitted on."""
        return transforms.Compose([*self._resize(), transforms.CenterCrop(self.size), *self._tensor()])

    def override(self, **changes: Any) -> Preprocess:
        """Returns a copy with some fields replaced; a new ``size`` without ``resize`` resizes without a margin.

        Raises:
            InputError: for a field that does not exist or a value that cannot be.
        """
        names = [field.name for field in fields(self)]
        for name in changes:
            if name not in names:
                raise InputError(f"preprocess has no {name!r}; it has {', '.join(names)}")
        if "size" in changes:
            changes["size"] = _pair(changes["size"])
            changes.setdefault("resize", _whole(changes["size"]))
        if not isinstance(changes.get("resize"), int | None):
            changes["resize"] = _pair(changes["resize"])
        for name in ("mean", "std"):
            if name in changes:
                changes[name] = _values(name, changes[name])
        return replace(self, **changes)

    @classmethod
    def of(cls, **values: Any) -> Preprocess:
        """Makes a preprocessing from single values.

        Reads ``size``, ``mean`` and ``std``; ``resize`` is ``size`` and ``interpolation`` bilinear.

        Raises:
            InputError: if one of the three is missing.
        """
        missing = [name for name in ("size", "mean", "std") if name not in values]
        if missing:
            raise InputError(
                f"the network carries no preprocessing of its own and {', '.join(missing)} is not given: write "
                "preprocess: {size: ..., mean: [...], std: [...]}"
            )
        return cls((1, 1), None, "bilinear", (0.0,) * 3, (1.0,) * 3).override(**values)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Preprocess:
        """Makes a preprocessing from timm's config.

        Reads ``input_size``, ``mean``, ``std``, ``interpolation``, ``crop_pct``, ...

        Raises:
            InputError: if the config pads images with a border (``crop_mode`` border).
        """
        size = _pair(config["input_size"][1:])
        mode = config.get("crop_mode") or "center"
        if mode not in ("center", "squash"):
            raise InputError(
                f"the network asks for crop_mode {mode!r}, which is not supported: give preprocess: resize"
            )
        scaled = tuple(math.floor(side / (config.get("crop_pct") or 0.875)) for side in size)
        return cls.of(
            size=size,
            resize=scaled if mode == "squash" else _whole(scaled),
            interpolation=config.get("interpolation") or "bilinear",
            mean=config["mean"],
            std=config["std"],
        )

    @classmethod
    def from_timm(cls, network: nn.Module) -> Preprocess:
        """The evaluation transform that timm derives for one of its models."""
        from timm.data import resolve_model_data_config

        return cls.from_config(resolve_model_data_config(network))

    @classmethod
    def from_torchvision(cls, weights: Any) -> Preprocess:
        """The evaluation transform of an entry of a torchvision weights enum."""
        preset = weights.transforms()
        return cls.of(
            size=preset.crop_size[0],
            resize=preset.resize_size[0],
            interpolation=preset.interpolation.value,
            mean=preset.mean,
            std=preset.std,
        )

    def _resize(self) -> list[Any]:
        if self.resize is None:
            return []
        mode = transforms.InterpolationMode(self.interpolation)
        if isinstance(self.resize, tuple):
            return [transforms.Resize(self.resize, mode)]
        return [ResizeShorter(self.resize, self.size, mode)]

    def _tensor(self) -> list[Any]:
        return [transforms.ToTensor(), transforms.Normalize(self.mean, self.std)]


def _whole(size: Sequence[int]) -> int | tuple[int, int]:
    """The resize after which a square image needs no crop: the side, or both sides where they differ."""
    height, width = size
    return height if height == width else (height, width)


def _pair(size: Any) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise InputError(f"preprocess: {size!r} is no size: write an integer or [height, width]")
    return sides[0], sides[1]


def _values(name: str, values: Any) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise InputError(f"preprocess: {name} {values!r} is no list of numbers, one per channel") from None
