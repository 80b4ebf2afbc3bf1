"""Finds the classifier of a network: the layer, or the layers, between the penultimate feature and the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_ood.errors import InputError
from lightning_ood.features import Head


@dataclass
class Candidate:
    """A call of a module that may be the classifier.

    Attributes:
        name: name of the module.
        feature: ``[B, D]``, its input.
        output: ``[B, K]``, its output; for a convolution the mean over space.
        rectified: ``[B, K]``, for a convolution the mean over space after a ReLU; else None.
        final: whether no other layer with weights runs after it.
    """

    name: str
    feature: Tensor
    output: Tensor
    rectified: Tensor | None
    final: bool = True

    @classmethod
    def of(cls, name: str, module: nn.Module, read: Tensor, output: Tensor) -> Candidate:
        """Builds a candidate from the input and output of one call, copied in case a later layer overwrites them."""
        if not isinstance(module, nn.Conv2d) or output.ndim != 4:
            return cls(name, feature_of(module, read).clone(), output.flatten(1).clone(), None)
        return cls(name, feature_of(module, read).clone(), output.mean((2, 3)), output.relu().mean((2, 3)))


def feature_of(module: nn.Module, read: Tensor) -> Tensor:
    """Returns the penultimate feature ``[B, D]``, given the input of a classifier.

    If the classifier is a convolution that reads a map before global pooling (SqueezeNet), the feature is the map's
    mean over space, since pooling and a 1x1 convolution commute.
    """
    return read.mean((2, 3)) if isinstance(module, nn.Conv2d) and read.ndim == 4 else read.flatten(1)


def linear_head(layers: Sequence[nn.Module]) -> Head | None:
    """Reads the weights of a classifier; None if it is not linear.

    Several layers whose logits are averaged (DeiT's class and distillation token) are equal to one layer on their
    concatenated features.
    """
    weights, biases = [], []
    for layer in layers:
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            return None
        weight = layer.weight.detach().flatten(1).float()  # [K, D of this layer]
        weights.append(weight)
        biases.append(weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().float())
    return Head(torch.cat(weights, dim=1) / len(layers), torch.stack(biases).mean(dim=0))


def find_classifier(calls: Sequence[Candidate], logits: Tensor, head: str | None, kind: str) -> list[Candidate]:
    """Finds the call whose output is the logits, or the two calls whose mean output is.

    Args:
        calls: calls of modules that may be the classifier, in order of execution.
        logits: ``[B, K]``, the network's output.
        head: name of the classifier, if the user gave it.
        kind: class name of the network, for the error message.

    Raises:
        InputError: if no call matches.
    """
    backwards = list(reversed(calls))
    if head is not None:
        return [_named(next((call for call in backwards if call.name == head), None), logits, head, kind)]
    alike = [call for call in backwards if call.output.shape == logits.shape]
    for call in alike:
        if torch.equal(call.output, logits):
            return [call]
    for call in alike:
        if call.final and (
            close(call.output, logits) or (call.rectified is not None and close(call.rectified, logits))
        ):
            return [call]
    if len(alike) > 1 and close((alike[0].output + alike[1].output) / 2, logits):
        return [alike[1], alike[0]]
    return no_classifier(kind)


def is_linear(modules: Sequence[nn.Module], feature: Tensor, logits: Tensor) -> bool:
    """Tests on a batch whether the logits ``[B, K]`` are the modules' linear function of ``feature`` ``[B, D]``."""
    head = linear_head(modules)
    return head is not None and head.num_features == feature.shape[1] and close(head(feature.float()), logits.float())


def close(one: Tensor, other: Tensor) -> bool:
    """Tells whether two tensors are equal up to the order of summation."""
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def _named(call: Candidate | None, logits: Tensor, head: str, kind: str) -> Candidate:
    """Returns the call of the module that the user named, if the network returns its output, times a constant."""
    for output in () if call is None else (call.output, call.rectified):
        if call is not None and output is not None and output.shape == logits.shape:
            scale = (output * logits).sum() / output.square().sum()  # that of least squares, such as a temperature
            if scale > 0 and close(scale * output, logits):
                return call
    given = "is not run on a tensor" if call is None else f"gives {list(call.output.shape)}"
    raise InputError(
        f"model.head: {head!r} {given}, which is not what the {kind} returns ({list(logits.shape)}); name the module "
        "whose output are the network's logits, or leave out model.head"
    )


def no_classifier(kind: str) -> list[Candidate]:
    """Raises the InputError of a network, of class ``kind``, whose classifier is not found."""
    raise InputError(
        f"a {kind} has no classifier that could be found: no linear layer's output equals the network's, and every "
        "detector needs logits and the feature that they are computed from. Give a model with a classification head "
        "(for timm: options.num_classes), or name the module with model.head"
    )
