"""ODIN: Enhancing The Reliability of OOD Image Detection. Liang, Li, Srikant. ICLR 2018. https://arxiv.org/abs/1706.02690."""

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.logit_score import LogitScore, name_of
from lightning_ood.detectors.ranges import check_at_least
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.views import Perturbation
from lightning_ood.views.perturbation import LargestEntries


class ODIN(LogitScore):
    """Largest softmax probability at a high temperature, of a perturbed image: ``max_k softmax(f(x') / T)_k``.

    ``x' = x - eps * sign(d CE(f(x) / T, y) / d x)`` (eq. 2), y the class predicted for x and sign(0) = 1; x' is not
    clamped. With a shaping (ReAct, ASH, ...), both forward passes use the shaped logits. With eps = 0 the score
    depends on the logits alone and needs no further forward. Fits nothing.

    With ``entries=1`` it is i-ODIN (OpenOOD's ``iodin``): only the entry (a pixel of a channel) whose gradient is
    largest is changed.

    The score is ``log(p / (1 - p)) + log(K - 1)``, p the largest probability: the log-odds of the class minus those of
    a uniform guess. It has the same order as p, is 0 for a uniform softmax, and keeps its digits in float32 at
    T = 1000, where p differs only in the sixth digit. Computed in float64.

    Deviations: temperature and eps are fixed arguments, not chosen on OOD images as in the paper. ``in_pixels`` covers
    a difference between implementations: OpenOOD divides the step by the preprocessing's standard deviation, the code
    of ReAct does not.

    Args:
        temperature: T.
        epsilon: length of the step; OpenOOD 0.0014, with ``in_pixels``.
        in_pixels: whether epsilon is in units of an image in [0, 1]; otherwise of the network's normalised input.
        entries: number of entries of an image that are changed, those of the largest gradient; all where None.

    Raises:
        InputError: if the temperature is not positive, epsilon is negative or ``entries`` is below 1.
    """

    def __init__(
        self, temperature: float = 1000.0, epsilon: float = 0.0, in_pixels: bool = True, entries: int | None = None
    ) -> None:
        super().__init__()
        check_at_least("entries", 1 if entries is None else entries, 1)
        if not 0 < temperature < float("inf") or not 0 <= epsilon < float("inf"):
            raise InputError(
                f"ODIN: temperature={temperature} has to be positive and epsilon={epsilon} at least 0; OpenOOD uses "
                "1000 and 0.0014"
            )
        self.temperature, self.epsilon, self.in_pixels, self.entries = temperature, epsilon, in_pixels, entries
        self.step = (epsilon, epsilon, epsilon)

    def setup(self, info: NetworkInfo) -> None:
        """Computes the length of the step per channel from the preprocessing."""
        super().setup(info)
        red, green, blue = info.std if self.in_pixels else (1.0, 1.0, 1.0)
        self.step = (self.epsilon / red, self.epsilon / green, self.epsilon / blue)

    def of_logits(self, logits: Tensor) -> Tensor:
        """Scores logits: ``[B, K] -> [B]``, at least 0."""
        if logits.shape[1] == 1:
            return logits.new_zeros(len(logits))
        return (self._log_odds(logits) + math.log(logits.shape[1] - 1)).float()

    def log_of_logits(self, logits: Tensor) -> Tensor:
        """Returns ``log(K * p)`` ``[B]``: the factor K changes no order in a product and keeps digits in float32."""
        if logits.shape[1] == 1:
            return logits.new_zeros(len(logits))
        return (math.log(logits.shape[1]) - F.softplus(-self._log_odds(logits))).float()

    def perturbation(self, owner: Detector, logits: Callable[[Features], Tensor]) -> Perturbation | None:
        """Returns the step against the gradient of the predicted class's cross-entropy at temperature T; None at 0."""

        def loss(features: Features) -> Tensor:
            scaled = logits(features) / self.temperature
            return scaled.logsumexp(dim=1) - scaled.max(dim=1).values

        if not self.epsilon:
            return None
        if self.entries is None:
            return Perturbation(name_of(owner), self.step, loss)
        return LargestEntries(name_of(owner), self.step, loss, self.entries)

    def _log_odds(self, logits: Tensor) -> Tensor:
        scaled = logits.double() / self.temperature  # [B, K]
        top, best = scaled.max(dim=1, keepdim=True)  # [B, 1] each
        return top.squeeze(1) - scaled.scatter(1, best, -math.inf).logsumexp(dim=1)
