"""A base for detectors that compare an image's embedding with the text embeddings of the classes."""

import torch.nn.functional as F
from torch import Tensor

from lightning_ood.detectors.base import Detector
from lightning_ood.features import Features


class TextCosine(Detector):
    """Reads the cosines of the penultimate feature and the rows of the classifier, the text embeddings of the classes.

    With a text head (``model.text``) the penultimate feature is the image embedding. Any linear classifier will do; its
    bias is left out.
    """

    linear_head = True

    def cosines(self, features: Features) -> Tensor:
        """Computes the cosines ``[B, K]`` with the classes."""
        assert features.head is not None
        weight = features.head.weight
        return features.cached("class cosines", weight, lambda: features.direction @ F.normalize(weight, dim=1).T)
