"""Accessors for optional batch fields that raise a helpful error when the field is missing."""

from torch import Tensor

from lightning_ood.errors import InputError
from lightning_ood.features import Features


def labels_of(features: Features) -> Tensor:
    """Returns the labels ``[B]`` of a batch of training images.

    Raises:
        InputError: if the fit set has no labels.
    """
    if features.labels is None:
        raise InputError("the fit set has no labels; give one with class labels, or leave the detector out")
    return features.labels


def index_of(features: Features) -> Tensor:
    """Returns the positions ``[B]`` of the images in their data set, on the host; they seed samples.

    Raises:
        InputError: if the batch has no index.
    """
    if features.index is None:
        raise InputError("the batch has no positions of its images in their data set; give Features an index")
    return features.index.cpu()
