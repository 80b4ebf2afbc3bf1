"""The largest cosine of an image and a class text, a baseline of Ming et al. 2022. https://arxiv.org/abs/2211.13445."""

from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.text_cosine import TextCosine
from lightning_ood.features import Features


class MaxCosine(TextCosine):
    """Largest cosine of the image embedding and the text embedding of a class: ``max_k cos(z, t_k)``.

    Fits nothing; between -1 and 1. For zero-shot heads (``model.text``); with another linear classifier t are its
    weights. Deviations: none. :class:`CTM` compares with the mean features of the classes instead of texts.
    """

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, from -1 to 1."""
        return self.cosines(features).amax(1)
