"""Shaping x logit score: the half that changes the feature or the classifier before a score of the logits."""

from abc import abstractmethod

from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted, LogitScore
from lightning_ood.detectors.energy import Energy
from lightning_ood.features import Features
from lightning_ood.views.perturbation import Perturbation


class Shaping(Detector):
    """Shapes the penultimate feature or the classifier, then scores the new logits.

    Args:
        base: the score of the shaped logits; Energy where None.
    """

    linear_head = True

    def __init__(self, base: LogitScore | None = None) -> None:
        super().__init__()
        self.base = base if base is not None else Energy()

    @abstractmethod
    def logits(self, features: Features, fitted: Fitted) -> Tensor:
        """The shaped logits ``[B, K]``."""

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores the shaped logits with the base."""
        return self.base.of_logits(self.logits(self.base.sees(self, features), fitted))

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """As the base gives it for the shaped logits."""
        return self.base.log_of_logits(self.logits(self.base.sees(self, features), fitted))

    def perturbations(self, fitted: Fitted) -> list[Perturbation]:
        """Those of the base, along the gradient through the shaping."""
        return self.base.steps(self, lambda features: self.logits(features, fitted))

    @property
    def positive(self) -> bool:
        """As the base."""
        return bool(self.base.positive)
