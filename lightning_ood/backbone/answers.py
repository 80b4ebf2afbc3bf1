"""Tests what a network answers: logits, the same for an image each time and whatever the other images are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_ood.backbone.classifier import close, feature_of, no_classifier
from lightning_ood.backbone.inspect import first_tensor, logits_of, with_first
from lightning_ood.errors import InputError


def answer(network: nn.Module, images: Tensor) -> Tensor:
    """Runs a network and returns its logits ``[B, K]``.

    Raises:
        InputError: if it cannot read the images ``[B, 3, H, W]``, or returns something else than logits.
    """
    kind = type(network).__name__
    try:
        with torch.no_grad():
            output = logits_of(network(images))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"a {kind} cannot read images {list(images.shape)} of 3 channels ({reason}); give a network that reads "
            "RGB images, with its pooling and classifier, and its image size as model.preprocess.size"
        ) from error
    _check_logits(kind, output, len(images), getattr(network, "num_classes", None))
    return output


def _check_logits(kind: str, output: Any, count: int, num_classes: object) -> None:
    """Raises an InputError unless an output are logits of several classes."""
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != count:
        given = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise InputError(
            f"a {kind} does not return logits [B, K] but {given}; give an image classifier that pools its map and "
            "returns the logits, alone or as `logits` of its output"
        )
    if num_classes == 0:
        no_classifier(kind)  # a timm network that was built without
    if output.shape[1] == 1:
        raise InputError(
            f"a {kind} returns one logit, and detectors compare the logits of two or more classes; return one logit "
            "per class, such as torch.cat([torch.zeros_like(z), z], 1) for one logit z"
        )
    for what, sums in (("probabilities", "rows"), ("log-probabilities", "exponentials of its rows")):
        rows = output.float() if what == "probabilities" else output.float().exp()  # [B, K]
        if bool((rows >= 0).all()) and torch.allclose(rows.sum(1), rows.new_ones(()), rtol=0, atol=1e-3):
            raise InputError(
                f"a {kind} returns {what} (the {sums} add up to 1), not logits; leave out its last "
                f"{'softmax' if what == 'probabilities' else 'log-softmax'}, and return what it reads"
            )


class Reader:
    """Runs a network again and reads its logits and its penultimate feature.

    Args:
        network: in eval mode.
        images: ``[B, 3, H, W]``.
        classifiers: names of the modules that read the feature.
    """

    def __init__(self, network: nn.Module, images: Tensor, classifiers: Sequence[str]) -> None:
        self.network, self.images, self.classifiers = network, images, classifiers

    def read(self, images: Tensor, flipped: str | None = None) -> tuple[Tensor, Tensor]:
        """Returns logits ``[B, K]`` and feature ``[B, D]``; ``flipped`` is a module whose output is flipped in B."""
        seen: dict[str, Tensor] = {}

        def store(name: str) -> Any:
            return lambda module, args: seen.update({name: feature_of(module, args[0]).clone()})

        handles = [self.network.get_submodule(n).register_forward_pre_hook(store(n)) for n in self.classifiers]
        if flipped is not None:
            handles.append(self.network.get_submodule(flipped).register_forward_hook(_flip))
        try:
            with torch.no_grad():
                logits = logits_of(self.network(images))
        finally:
            for handle in handles:
                handle.remove()
        return logits, torch.cat([seen[name] for name in self.classifiers], dim=1)

    def check(self, logits: Tensor, feature: Tensor) -> None:
        """Compares the answers for all images at once with those for each half of them.

        Raises:
            InputError: if they differ.
        """
        first, second = self.images.chunk(2)
        kind = type(self.network).__name__
        otherwise = "or accept it with model.reading.allow_random: true"
        try:
            halves = [self.read(half) for half in (first, second)]
            same = all(
                close(torch.cat(parts), whole)
                for parts, whole in zip(zip(*halves, strict=True), (logits, feature), strict=True)
            )
        except (RuntimeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise InputError(
                f"a {kind} cannot read one image alone ({reason}), so its answers may depend on the other images of a "
                f"batch; use running statistics and keep the batch dimension, {otherwise}"
            ) from error
        if same:
            return
        again = self.read(self.images)
        if all(close(one, other) for one, other in zip(again, (logits, feature), strict=True)):
            raise InputError(
                f"a {kind} answers differently for an image when the other images of the batch change; use running "
                f"statistics in eval mode, {otherwise}"
            )
        raise InputError(
            f"a {kind} answers differently each time it reads the same images in eval mode; switch its random layers "
            f"off (F.dropout needs training=self.training), {otherwise}"
        )

    def is_cut(self, module: str, feature: Tensor) -> bool:
        """Tells whether the feature ``[B, D]`` depends on the images only through the output of a module.

        If so, the flipped output of the module gives the flipped feature.
        """
        try:
            found = self.read(self.images, flipped=module)[1]
        except (RuntimeError, ValueError, TypeError):  # an output that cannot be replaced
            return False
        wanted = feature.flip(0)
        return float((found - wanted).abs().max()) < 1e-3 * float((feature - wanted).abs().max())


def _flip(module: nn.Module, args: Any, returned: Any) -> Any:
    output = first_tensor(returned)
    return None if output is None else with_first(returned, output.flip(0))
