"""Delving into OOD Detection with Vision-Language Representations. Ming et al. 2022. https://arxiv.org/abs/2211.13445."""

from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.msp import MSP
from lightning_ood.detectors.ranges import check_positive
from lightning_ood.detectors.text_cosine import TextCosine
from lightning_ood.features import Features


class MCM(TextCosine):
    """Maximum concept matching: logarithm of the largest softmax of the cosines with the class texts (eq. 1).

    ``log max_k exp(cos(z, t_k) / T) / sum_j exp(cos(z, t_j) / T)``; z is the image embedding, t the text embeddings of
    the classes. Fits nothing; at most 0. For zero-shot heads (``model.text``); with another linear classifier t are its
    weights.

    Deviation: the logarithm, which changes no ranking.

    Args:
        temperature: T, of the cosines. The paper: 1, whatever the model was trained with.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        self.temperature = temperature
        self.msp = MSP()

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, at most 0."""
        return self.msp.of_logits(self.cosines(features) / self.temperature)

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """Returns the score ``[B]``, a logarithm already."""
        return self.score(features, fitted)
