"""A base for shapings, which change the feature or the classifier before a score of the logits."""

from abc import abstractmethod

from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.doubts import Seen, shaping_doubts
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.logit_score import LogitScore, perturbed
from lightning_ood.features import Features
from lightning_ood.views import Perturbation


class Shaping(Detector):
    """Shapes the penultimate feature or the classifier, then scores the new logits.

    Args:
        base: the score of the shaped logits; Energy where None.
    """

    linear_head = True

    def __init__(self, base: LogitScore | None = None) -> None:
        super().__init__()
        self.base = base if base is not None else Energy()
        self.positive = self.base.positive

    @abstractmethod
    def logits(self, features: Features, fitted: Fitted) -> Tensor:
        """Computes the shaped logits ``[B, K]``."""

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores the shaped logits with the base."""
        return self.base.of_logits(self._logits(features, fitted))

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """Returns the logarithm of the base's positive form for the shaped logits."""
        return self.base.log_of_logits(self._logits(features, fitted))

    def perturbations(self, fitted: Fitted) -> list[Perturbation]:
        """Returns the base's perturbation, along the gradient through the shaping, if there is one."""
        step = self._step(fitted)
        return [] if step is None else [step]

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts a shaping that predicts other classes than the network does."""
        found = super().doubts(fitted, seen)
        if seen.sample is None or not seen.holds(self):
            return found
        return [*found, *shaping_doubts(self.logits(seen.sample, fitted), seen.sample)]

    def _logits(self, features: Features, fitted: Fitted) -> Tensor:
        return self.logits(perturbed(features, self._step(fitted)), fitted)

    def _step(self, fitted: Fitted) -> Perturbation | None:
        return self.base.perturbation(self, lambda features: self.logits(features, fitted))
