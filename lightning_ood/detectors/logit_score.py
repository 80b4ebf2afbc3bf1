"""A base for scores that are a function of the logits alone, and the perturbed images that such a score may read."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor

from lightning_ood.detectors.base import SMALLEST, Detector, Fitted
from lightning_ood.errors import InputError
from lightning_ood.features import Features
from lightning_ood.views import Perturbation


class LogitScore(Detector):
    """A score that is a function of the logits alone. Shapings (ReAct, DICE, LINe, …) take one as their ``base``."""

    @abstractmethod
    def of_logits(self, logits: Tensor) -> Tensor:
        """Scores logits ``[B, K]``: ``[B]``, higher = more in-distribution."""

    def log_of_logits(self, logits: Tensor) -> Tensor:
        """Returns the logarithm ``[B]`` of the score's positive form for ``logits`` ``[B, K]``; see ``log_score``."""
        return self.of_logits(logits).clamp_min(SMALLEST).log()

    def perturbation(self, owner: Detector, logits: Callable[[Features], Tensor]) -> Perturbation | None:
        """Returns the perturbation of an image before its logits are scored; None by default.

        Args:
            owner: the detector that computes the logits.
            logits: computes them, ``[B, K]``, from the features of the unperturbed images.
        """
        return None

    def perturbations(self, fitted: Fitted) -> list[Perturbation]:
        """Returns the perturbation along the gradient of the network's own logits, if there is one."""
        step = self._step()
        return [] if step is None else [step]

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores the network's own logits."""
        return self.of_logits(perturbed(features, self._step()).logits)

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """Returns the logarithm of the score's positive form for the network's own logits."""
        return self.log_of_logits(perturbed(features, self._step()).logits)

    def _step(self) -> Perturbation | None:
        return self.perturbation(self, lambda features: features.logits)


def name_of(detector: Detector) -> str:
    """Returns the class and arguments of a detector as JSON, the same for equal detectors."""
    return json.dumps(detector.config(), sort_keys=True)


def perturbed(features: Features, step: Perturbation | None) -> Features:
    """Returns the features of the images after ``step``; ``features`` itself where ``step`` is None.

    Raises:
        InputError: if the batch has no perturbed images: in a fit, or in stored features.
    """
    if step is None:
        return features
    if step not in features.views:
        raise InputError(
            f"the score reads images after a perturbation of {step.step}, and this batch has none: only a test pass "
            "has them; write epsilon: 0"
        )
    return features.views[step]
