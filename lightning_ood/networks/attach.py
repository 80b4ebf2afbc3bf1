"""A linear head on a network without one: for a head that ``fit`` makes, or text embeddings for zero-shot labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_ood.errors import InputError

if TYPE_CHECKING:
    from lightning_ood.networks.build import Built


class WithHead(nn.Module):
    """A network that returns features, and a linear head on them.

    Args:
        tower: ``[B, 3, H, W] -> [B, D]``, or the name of a network that ``networks.build`` builds.
        num_classes: K.
        num_features: D.
        cosine: whether the head reads features of unit length, and has no bias.
        options: keyword arguments of a tower that is given by name.
    """

    def __init__(
        self,
        tower: nn.Module | str,
        num_classes: int,
        num_features: int,
        cosine: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(tower, str):
            from lightning_ood.networks.build import build

            tower = build(tower, weights="none", options=options).network
        self.tower, self.cosine = tower, cosine
        self.head = nn.Linear(num_features, num_classes, bias=not cosine)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits ``[B, K]`` of images ``[B, 3, H, W]``."""
        features = self.tower(images)
        return self.head(F.normalize(features, dim=1) if self.cosine else features)


def attach_head(network: nn.Module, num_classes: int, size: tuple[int, int]) -> WithHead:
    """Puts a linear head with random weights on a network.

    Args:
        network: ``[B, 3, H, W] -> [B, D]``.
        num_classes: K.
        size: ``(H, W)`` of the images.
    """
    return WithHead(network, num_classes, _width(network, size))


def attach_text(built: Built, file: Path) -> Built:
    """Makes text embeddings the head of an image tower: ``logits = scale * cos(image, text of class k)``.

    Args:
        built: the tower, whose output are image embeddings ``[B, D]``.
        file: a safetensors file with ``classes`` ``[K, D]`` and, where the model has a temperature, ``scale``, the
            factor of the cosine; 100 where it is missing, as in CLIP.

    Raises:
        InputError: if the file is missing, lacks ``classes``, or its embeddings have another length.
    """
    stored = read_embeddings(file, "classes")
    classes, scale = stored["classes"], float(stored.get("scale", torch.tensor(100.0)))
    width = _width(built.network, built.preprocess.size)
    if classes.shape[1] != width:
        raise InputError(
            f"model.text: {file} has text embeddings of {classes.shape[1]} numbers, and the image embeddings of "
            f"{built.source.network} have {width}; use both towers of one model, with its projection"
        )
    network = WithHead(built.network, len(classes), width, cosine=True)
    with torch.no_grad():
        network.head.weight.copy_(scale * F.normalize(classes, dim=1))
    return replace(built, network=network.eval())


def read_embeddings(file: Path, key: str) -> dict[str, Tensor]:
    """Reads a safetensors file of text embeddings, as float32.

    Args:
        file: the file.
        key: name of the embeddings ``[n, D]`` that have to be in it.

    Raises:
        InputError: if the file cannot be read or lacks them.
    """
    try:
        stored = {name: value.float() for name, value in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} cannot be read as a safetensors file of text embeddings: {error}") from error
    if key not in stored or stored[key].ndim != 2:
        raise InputError(f"{file} has no text embeddings {key!r} [n, D]; it holds {', '.join(stored) or 'nothing'}")
    return stored


def _width(network: nn.Module, size: tuple[int, int]) -> int:
    """Returns the length of the features that a network computes."""
    network.eval()
    with torch.no_grad():
        features = network(torch.zeros(2, 3, *size))
    if not isinstance(features, Tensor) or features.ndim != 2:
        given = f"a tensor {list(features.shape)}" if isinstance(features, Tensor) else f"a {type(features).__name__}"
        raise InputError(f"a {type(network).__name__} returns {given}, not features [B, D] that a head can read")
    return features.shape[1]
