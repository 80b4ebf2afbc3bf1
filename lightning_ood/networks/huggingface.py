"""Image networks of transformers, an optional library: ``hf:`` and the name of a repository or a folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchvision.transforms import InterpolationMode

from lightning_ood.errors import InputError

# Pillow's numbers, which processors store
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


class HFNetwork(nn.Module):
    """A model of transformers that reads images and returns logits or, without a classifier, features.

    Args:
        config: the model's config in plain values, with its ``model_type``.
        classifier: whether it is built with its image classifier.
        model: the model; random weights where None.
    """

    def __init__(self, config: Mapping[str, Any], classifier: bool, model: nn.Module | None = None) -> None:
        super().__init__()
        transformers = _transformers()
        if model is None:
            made = transformers.AutoConfig.for_model(**config)
            kind = transformers.AutoModelForImageClassification if classifier else transformers.AutoModel
            model = kind.from_config(made)
        self.config, self.classifier, self.model = dict(config), classifier, model

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits ``[B, K]``, or features ``[B, D]``, of images ``[B, 3, H, W]``."""
        model: Any = self.model
        if self.classifier:
            logits: Tensor = model(pixel_values=images).logits
            return logits
        image_features = getattr(model, "get_image_features", None)  # CLIP, SigLIP: with their projection
        output = model(pixel_values=images) if image_features is None else image_features(pixel_values=images)
        return _features(output)


def load(name: str, pretrained: bool, options: Mapping[str, Any]) -> HFNetwork:
    """Builds a model of transformers, with its classifier where the repository has one.

    Args:
        name: a repository or a folder with ``config.json``.
        pretrained: whether its weights are loaded, or it keeps random ones.
        options: fields of the config that are changed.
    """
    transformers = _transformers()
    config = transformers.AutoConfig.from_pretrained(name, **options)
    if config.model_type == "vit_mae":
        config.mask_ratio = 0.0  # it hides random patches otherwise
    classifier = any("ForImageClassification" in kind for kind in config.architectures or ())
    model = None
    if pretrained:
        kind = transformers.AutoModelForImageClassification if classifier else transformers.AutoModel
        model = kind.from_pretrained(name, config=config)
    return HFNetwork(config.to_dict(), classifier, model)


def preprocess_values(name: str) -> dict[str, Any]:
    """Returns the fields of a ``Preprocess`` that a repository's image processor states; none where it has no file."""
    transformers = _transformers()
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name)
    except OSError:
        return {}
    size, crop = dict(processor.size or {}), dict(getattr(processor, "crop_size", None) or {})
    edge = size.get("shortest_edge")
    resize: Any = edge if edge is not None else (size["height"], size["width"])
    target = (crop["height"], crop["width"]) if crop and getattr(processor, "do_center_crop", False) else resize
    crop_pct = getattr(processor, "crop_pct", None)
    if crop_pct and edge is not None and edge < 384:  # ConvNeXt's rule
        resize, target = math.floor(edge / crop_pct), edge
    normalized = getattr(processor, "do_normalize", True)
    return {
        "size": target,
        "resize": resize,
        "interpolation": InterpolationMode(_RESAMPLE[int(processor.resample)]).value,
        "mean": list(processor.image_mean) if normalized else [0.0] * 3,
        "std": list(processor.image_std) if normalized else [1.0] * 3,
    }


def _features(output: Any) -> Tensor:
    """Returns the features ``[B, D]`` of a model's output: what it pooled, else its class token."""
    if isinstance(output, Tensor):
        return output.flatten(1)
    pooled: Tensor | None = getattr(output, "pooler_output", None)
    if pooled is not None:
        return pooled.flatten(1)
    hidden: Tensor = output.last_hidden_state
    return hidden[:, 0] if hidden.ndim == 3 else hidden.mean((2, 3))


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise InputError(
            "a network named hf:… comes from transformers, which is not installed: pip install 'lightning-ood[hf]'"
        ) from None
    return transformers
