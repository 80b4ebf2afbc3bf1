"""Neuron activation coverage: counts of training images per neuron and bin of its state, as NAC uses them."""

import math
from typing import Literal

import torch
from torch import Tensor

from lightning_ood.errors import InputError
from lightning_ood.ops.transfer import beside
from lightning_ood.statistics.base import Statistic, own

Scheme = Literal["log", "uniform"]


def bin_edges(bins: int, scheme: Scheme) -> Tensor:
    """Computes the edges of the half-open bins of a state.

    ``log``: M edges as in the authors' code for detection. On [0, 0.5] they are ``log_1000`` of equidistant numbers
    from 1 to sqrt(1000), dense at 0.5; on [0.5, 1] they are mirrored. The edge at 1 is moved to 1.01, so that a state
    of 1 has a bin. An edge at 1.2 closes a bin that no state reaches. ``uniform``: M equidistant edges on [0, 1], as in
    the authors' code for model evaluation; a state of exactly 1 is in no bin.

    Args:
        bins: M; there are M - 1 bins. Even for ``log``, whose two halves share the edge 0.5.
        scheme: spacing of the edges.

    Returns:
        ``[M]`` float64, increasing.

    Raises:
        InputError: if M is too small, or odd for ``log``.
    """
    if scheme == "uniform":
        if bins < 2:
            raise InputError(f"bins: {bins} is too small for the uniform scheme; write a number from 2")
        return torch.linspace(0, 1, bins, dtype=torch.float64)
    if bins < 4 or bins % 2:
        raise InputError(
            f"bins: {bins} is not an even number from 4, which the log scheme needs to mirror its edges; "
            f"write {max(4, bins + 1)}, or scheme: uniform"
        )
    half = torch.linspace(1, math.sqrt(1000), bins // 2, dtype=torch.float64).log() / math.log(1000)  # [M / 2]
    half[-1] = 0.5
    upper = 1 - half.flip(0)[1:]  # [M / 2 - 1]
    upper[-1] = 1.01
    return torch.cat([half, upper, half.new_tensor([1.2])])


def bin_index(states: Tensor, edges: Tensor) -> Tensor:
    """Returns the bin of each state, int64 of the shape of ``states``: 0 to bins - 1, or ``bins`` if it is in none."""
    last = len(edges) - 1
    index = torch.bucketize(states.double(), beside(edges, states), right=True) - 1  # -1 below the first edge
    return torch.where(index < 0, last, index.clamp(max=last))


def count_bins(counts: Tensor, index: Tensor, counted: Tensor | None = None) -> Tensor:
    """Adds images to the counts of each neuron's bins, in place and without waiting for the device.

    Args:
        counts: ``[N, bins]`` int64, contiguous.
        index: ``[B, N]``, from :func:`bin_index`; ``bins`` where a state is in none.
        counted: ``[B]``, true for the images that count; all where None.
    """
    neurons, bins = counts.shape
    valid = index < bins if counted is None else (index < bins) & counted[:, None]  # [B, N]
    # Position in the flat counts, [B, N]. A state in no bin adds 0 to the last bin: masking it out would synchronise.
    cell = index.clamp(max=bins - 1) + torch.arange(neurons, device=index.device) * bins
    counts.view(-1).scatter_add_(0, cell.flatten(), valid.flatten().long())
    return counts


class StateCounts(Statistic):
    """Counts the training images per neuron and bin of its state.

    Counts are integers, so the result does not depend on order, batches or processes. State: ``N * (M - 1)`` int64.

    Args:
        neurons: N.
        bins: M - 1.
    """

    counts: Tensor

    def __init__(self, neurons: int, bins: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(neurons, bins, dtype=torch.int64), "sum")

    def update(self, index: Tensor) -> None:
        """Counts a batch, given the bin of each neuron's state, ``index`` ``[B, N]``."""
        self.counts = count_bins(own(self.counts), index)

    def compute(self) -> Tensor:
        """Returns the counts ``[N, M - 1]`` over all processes."""
        return self.counts


def covered(counts: Tensor, samples: float) -> Tensor:
    """Computes ``Phi = min(count / samples, 1)`` of each bin, float32 of the shape of ``counts``."""
    return (counts / samples).clamp(max=1).float()


def layer_score(index: Tensor, counts: Tensor, samples: float) -> Tensor:
    """Averages Phi of each image's bins over neurons: ``[B, N] -> [B]``, in [0, 1]; Phi is 0 for a state in no bin."""
    weight = torch.nn.functional.pad(covered(counts, samples), (0, 1)).T  # [M, N], a row of zeros for "no bin"
    return weight.gather(0, index).mean(dim=1)


def coverage(counts: Tensor, samples: float) -> Tensor:
    """Computes the coverage of each neuron, ``[N, M - 1] -> [N]``: the sum over bins of ``Phi / M``.

    Divides by M as the paper does, although there are M - 1 bins: the largest value is (M - 1) / M.
    """
    return covered(counts, samples).double().sum(dim=1) / (counts.shape[1] + 1)
