"""Entropy of the softmax, as in Chan, Rottmann, Gottschalk. ICCV 2021. https://arxiv.org/abs/2012.06575."""

import torch
from torch import Tensor

from lightning_ood.detectors.logit_score import LogitScore


class Entropy(LogitScore):
    """Shannon entropy of the softmax, negative: ``sum_k p_k log p_k`` in nats; between -log K and 0.

    Fits nothing. In float64: a saturated softmax still has an order. Deviation: of the image's softmax, where the
    paper takes each pixel's of a segmentation and divides by log K.
    """

    positive = False

    def of_logits(self, logits: Tensor) -> Tensor:
        """``[B, K] -> [B]``, at most 0."""
        return -torch.special.entr(logits.double().softmax(1)).sum(1).float()
