"""What a detector may miss in a batch: each accessor gives it or says what to do."""

from torch import Tensor

from lightning_ood.errors import InputError
from lightning_ood.features import Features


def labels_of(features: Features) -> Tensor:
    """``[B]`` labels of a batch of training images.

    Raises:
        InputError: if the fit set has none.
    """
    if features.labels is None:
        raise InputError("the fit set has no labels; give one with class labels, or leave the detector out")
    return features.labels


def index_of(features: Features) -> Tensor:
    """``[B]`` positions of the images in their data set, which seed samples; on the host.

    Raises:
        InputError: if they are not known.
    """
    if features.index is None:
        raise InputError("the images' positions in their data set are unknown; give Features an index")
    return features.index.cpu()
