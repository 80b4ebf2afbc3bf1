"""Entropy of the softmax, as in Chan, Rottmann, Gottschalk. ICCV 2021. https://arxiv.org/abs/2012.06575."""

import torch
from torch import Tensor

from lightning_ood.detectors.logit_score import LogitScore


class Entropy(LogitScore):
    """Negative Shannon entropy of the softmax: ``sum_k p_k log p_k`` in nats, between -log K and 0.

    Fits nothing. Computed in float64, in which saturated softmaxes are still ordered. Deviation: it is the entropy of
    an image's softmax; the paper takes that of each pixel of a segmentation and divides it by log K.
    """

    positive = False

    def of_logits(self, logits: Tensor) -> Tensor:
        """Scores logits: ``[B, K] -> [B]``, at most 0."""
        return -torch.special.entr(logits.double().softmax(1)).sum(1).float()
