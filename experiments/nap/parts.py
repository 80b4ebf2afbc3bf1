"""The parts of NAP's ratio as detectors of their own; none fits anything."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.features import Features


class Part(Detector):
    """``mean_c part(A_c) ** power`` of the map ``A`` before pooling.

    Args:
        of: max, mean, 1/mean (with 1e-3 added, as in max/mean), max/mean, or NAP's own ratio.
        power: exponent.
    """

    taps = ("last",)

    def __init__(
        self, of: Literal["max", "mean", "1/mean", "max/mean", "max/(mean+1)"] = "max/(mean+1)", power: float = 1.0
    ) -> None:
        super().__init__()
        self.of, self.power = of, power

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        flat = features.maps["last"].float().flatten(2)
        top, mean = flat.amax(dim=2), flat.mean(dim=2)
        part = {
            "max": top,
            "mean": mean,
            "1/mean": 1 / (mean + 1e-3),
            "max/mean": top / (mean + 1e-3),
            "max/(mean+1)": top / (mean + 1),
        }[self.of]
        return part.pow(self.power).mean(dim=1)
