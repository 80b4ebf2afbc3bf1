"""Neuron activation coverage: how often each neuron was seen in each range of its state. What NAC counts."""

import math
from typing import Literal

import torch
from torch import Tensor

from lightning_ood.errors import InputError
from lightning_ood.ops.transfer import beside
from lightning_ood.statistics.base import Statistic, own

Scheme = Literal["log", "uniform"]


def bin_edges(bins: int, scheme: Scheme) -> Tensor:
    """Edges of the half-open bins of a state.

    ``log``: M edges as in the authors' code for detection: ``log_1000`` of a line from 1 to sqrt(1000) on [0, 0.5],
    dense at 0.5, mirrored on [0.5, 1]; the edge at 1 is moved to 1.01, so that a state of 1 has a bin, and 1.2 closes
    a bin that no state reaches. ``uniform``: M edges on [0, 1], as in their code for model evaluation; a state of
    exactly 1 is in no bin.

    Args:
        bins: M; there are M - 1 bins. Even for ``log``, whose two halves share the edge 0.5.
        scheme: where the edges lie.

    Returns:
        ``[M]`` float64, increasing.

    Raises:
        InputError: if M is too small, or odd for ``log``.
    """
    if scheme == "uniform":
        if bins < 2:
            raise InputError(f"uniform bins need at least 2 edges, not bins: {bins}")
        return torch.linspace(0, 1, bins, dtype=torch.float64)
    if bins < 4 or bins % 2:
        raise InputError(
            f"the log scheme mirrors its edges, so `bins` is an even number from 4, not {bins}: "
            f"write {max(4, bins + 1)}, or the scheme uniform"
        )
    half = torch.linspace(1, math.sqrt(1000), bins // 2, dtype=torch.float64).log() / math.log(1000)
    half[-1] = 0.5
    upper = 1 - half.flip(0)[1:]
    upper[-1] = 1.01
    return torch.cat([half, upper, half.new_tensor([1.2])])


def bin_index(states: Tensor, edges: Tensor) -> Tensor:
    """The bin of each state, int64 in [0, bins]; ``bins``, one past the last, where it is in none."""
    last = len(edges) - 1
    index = torch.bucketize(states.double(), beside(edges, states), right=True) - 1
    return torch.where(index < 0, last, index.clamp(max=last))


def count_bins(counts: Tensor, index: Tensor, counted: Tensor | None = None) -> Tensor:
    """Adds images to the number that each neuron has in each bin, in place; the device is not waited for.

    Args:
        counts: ``[N, bins]`` int64, contiguous.
        index: ``[B, N]``, from :func:`bin_index`; ``bins`` where a state is in none.
        counted: ``[B]``, true for the images that count; all where None.
    """
    neurons, bins = counts.shape
    inside = index < bins if counted is None else (index < bins) & counted[:, None]
    cell = index.clamp(max=bins - 1) + torch.arange(neurons, device=index.device) * bins
    counts.view(-1).scatter_add_(0, cell.flatten(), inside.flatten().long())
    return counts


class StateCounts(Statistic):
    """Counts, per neuron, of the training images whose state falls in each bin.

    Integers: the result does not depend on order, batches or processes. State: ``N * (M - 1)`` int64.

    Args:
        neurons: N.
        bins: M - 1.
    """

    counts: Tensor

    def __init__(self, neurons: int, bins: int) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(neurons, bins, dtype=torch.int64), "sum")

    def update(self, index: Tensor) -> None:
        """Counts the bins ``index`` ``[B, N]``."""
        self.counts = count_bins(own(self.counts), index)

    def compute(self) -> Tensor:
        """``[N, M - 1]``, the counts over all processes."""
        return self.counts


def covered(counts: Tensor, samples: float) -> Tensor:
    """``Phi = min(count / samples, 1)`` of each bin, float32: what a state in it is worth."""
    return (counts / samples).clamp(max=1).float()


def layer_score(index: Tensor, counts: Tensor, samples: float) -> Tensor:
    """Mean over neurons of Phi of each image's bins: ``[B, N] -> [B]``, in [0, 1]; zero outside all bins."""
    worth = torch.nn.functional.pad(covered(counts, samples), (0, 1)).T  # [M, N]
    return worth.gather(0, index).mean(dim=1)


def coverage(counts: Tensor, samples: float) -> Tensor:
    """Coverage of each neuron, ``[N, M - 1] -> [N]``: ``sum over bins of Phi / M``.

    M as in the paper, where M - 1 bins exist: the largest value is (M - 1) / M.
    """
    return covered(counts, samples).double().sum(dim=1) / (counts.shape[1] + 1)
