"""BFAct: Out-of-distribution detection with Butterworth filter rectified activations. Kong, Li. 2022.

As in OptFS's authors' code: https://github.com/Qinyu-Allen-Zhao/OptFSOOD
"""

from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.logit_score import LogitScore
from lightning_ood.detectors.react import ReAct
from lightning_ood.errors import InputError
from lightning_ood.features import Features


class BFAct(ReAct):
    """Attenuates large activations smoothly before the classifier: ``z / sqrt(1 + (z / c)^(2 N))``, unit by unit.

    A Butterworth filter of order N with one threshold c for all units, in units of the feature. A unit at c is divided
    by sqrt(2), and far above c it tends to 0 for N > 1.

    With a threshold it fits nothing; with a percentile it fits on all training images, without labels. State: that of
    :class:`~lightning_ood.detectors.react.ReAct`, shared with it; fitted: ``threshold``.

    Deviations: the paper was not at hand; formula, N = 2 and the 95th percentile are those of OptFS's authors, who
    compare with it. Their choice of both on surrogate OOD images is left out.

    Args:
        base: the score of the new logits; Energy where None.
        threshold: c; if given, the percentile is not used.
        percentile: of all entries of the training features, gives c.
        order: N.

    Raises:
        InputError: if ``order`` is below 1, or the threshold not positive.
    """

    def __init__(
        self,
        base: LogitScore | None = None,
        threshold: float | None = None,
        percentile: float = 95.0,
        order: int = 2,
    ) -> None:
        super().__init__(base, threshold, percentile)
        if order < 1 or (threshold is not None and threshold <= 0):
            raise InputError(f"order={order} and threshold={threshold} have to be positive; write order: 2")
        self.order = order

    def logits(self, features: Features, fitted: Fitted) -> Tensor:
        """Computes the logits ``[B, K]`` of the attenuated feature."""
        assert features.head is not None
        # In float64: the percentile of a network whose units are mostly dead is zero.
        c = self.threshold or fitted["threshold"].double().abs().clamp(min=1e-30)
        z = features.pooled.double()
        return features.head((z * (1 + (z / c) ** (2 * self.order)).rsqrt()).float())
