"""NAC-ME: predicts how well a classifier generalises from the coverage of its neurons' states by training images."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_ood.detectors.batch_fields import labels_of
from lightning_ood.detectors.nac import POOLED, Pool, neuron_states
from lightning_ood.features import Features
from lightning_ood.statistics.base import Statistic, own
from lightning_ood.statistics.coverage import bin_edges, bin_index, count_bins, coverage

FLOAT32_ONE = 2.0**-24  # a sigmoid this close to 1 is 1 in float32, where 1 + exp(-x) is 1 from x = 16.64
Ones = Literal["drop", "keep"]
DivideBy = Literal["edges", "bins"]


class NACME(Statistic):
    """Neuron Activation Coverage for Model Evaluation. Liu et al. ICLR 2024. https://arxiv.org/abs/2306.02879.

    The states of the training images' neurons (see ``detectors.nac.NAC``) are counted in uniform bins. The value is
    ``mean over neurons of 1/M sum over bins of min(count / O, 1)``. A higher value predicts better generalisation under
    shift. The value grows with the number of images until O saturates, so compare checkpoints on the same images.

    Works on any classifier: ``update(Features(logits, pooled, Head(weight, bias), labels=labels))``. State: counts,
    N * (M - 1) int64, exact on any number of processes.

    The defaults are those of the authors' code for model evaluation, which differ from those for detection: uniform
    bins, only correctly classified images, alpha 0.1. Two of its properties are options: a state of 1 in float32 is
    in no bin (``ones``), and the sum over M - 1 bins is divided by M, so that the largest value is (M - 1) / M
    (``divide_by``). Deviation: the authors augment the training images at random, which makes the value noisy. Here it
    depends on the images given to ``update``; ``selection.NACMECallback`` uses images without augmentation.

    Args:
        neurons: N, of the layer.
        layer: ``pooled``, the penultimate feature (closed-form gradient), or a tap whose map and gradient are in the
            features.
        samples: O, the number of images at which a bin is fully covered.
        bins: M, the number of edges.
        alpha: steepness of the sigmoid.
        pool: reduction of a map and of its gradient over positions.
        correct_only: count only correctly classified images; needs labels.
        ones: treatment of states whose float32 sigmoid is 1: ``drop``, as the authors' code, which computes in float32,
            or ``keep`` in the last bin.
        divide_by: ``edges``, M, or ``bins``, M - 1.
    """

    is_differentiable = False
    higher_is_better = True

    counts: Tensor

    def __init__(
        self,
        neurons: int,
        layer: str = POOLED,
        samples: int = 500,
        bins: int = 50,
        alpha: float = 0.1,
        pool: Pool = "sum",
        correct_only: bool = True,
        ones: Ones = "drop",
        divide_by: DivideBy = "edges",
    ) -> None:
        super().__init__()
        self.layer, self.samples, self.alpha, self.pool = layer, samples, alpha, pool
        self.correct_only, self.divide_by = correct_only, divide_by
        self.edges = bin_edges(bins, "uniform")
        self.ones = ones
        if ones == "keep":
            self.edges[-1] = 1.01
        self.add_state("counts", torch.zeros(neurons, bins - 1, dtype=torch.int64), "sum")

    def update(self, features: Features) -> None:
        """Counts the states of a batch.

        Args:
            features: logits and, for ``pooled``, pooled and head; for a tap, its map and gradient; labels if
                ``correct_only`` is set.

        Raises:
            InputError: if labels or the head are needed and missing.
        """
        counted = features.prediction == labels_of(features) if self.correct_only else None
        self.count(neuron_states(features, self.layer, self.alpha, self.pool), counted)

    def count(self, states: Tensor, counted: Tensor | None = None) -> None:
        """Counts ``states`` ``[B, N]`` in [0, 1] of the images for which ``counted`` ``[B]`` is true, or of all."""
        index = bin_index(states, self.edges)
        if self.ones == "drop":
            index = index.masked_fill(1 - states.double() <= FLOAT32_ONE, len(self.edges) - 1)
        self.counts = count_bins(own(self.counts), index, counted)

    def compute(self) -> Tensor:
        """Computes the coverage over all processes, a float64 scalar in [0, 1]; 0 without images."""
        value = coverage(self.counts, self.samples).mean()
        edges = len(self.edges)
        return value if self.divide_by == "edges" else value * edges / (edges - 1)
