"""On Calibration of Modern Neural Networks. Guo, Pleiss, Sun, Weinberger. ICML 2017. https://arxiv.org/abs/1706.04599."""

import math

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.batch_fields import labels_of
from lightning_ood.detectors.msp import MSP
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo

_LARGEST, _POINTS = 10.0, 41  # temperatures from 1/10 to 10, 12 % apart


class TemperatureScaling(Detector):
    """Maximum softmax probability at a calibrated temperature: ``log max_k softmax(f / T)_k``.

    T minimises the negative log-likelihood of the labels (section 4.2). The likelihood is convex in 1 / T, and its
    derivative is summed at 41 temperatures from 0.1 to 10; T is the zero between two of them, linear in log T, to
    about 0.1 %. In (-inf, 0].

    Given a ``temperature`` it fits nothing. Else it fits on all training images and their labels. State: 42 float64;
    fitted: ``temperature``. Scored as its logarithm, as MSP is.

    Deviation: the paper fits T on validation images. A network that classifies all training images correctly is
    underconfident on them at any T: T is then 0.1, the smallest. Give a ``temperature`` for such a network.

    Args:
        temperature: T; None fits it.

    Raises:
        InputError: if the temperature is not positive.
    """

    labels = True

    derivative: Tensor
    images: Tensor

    def __init__(self, temperature: float | None = None) -> None:
        super().__init__()
        if temperature is not None and not 0 < temperature < math.inf:
            raise InputError(f"temperature={temperature} is not positive; write for example 1.5, or null to fit it")
        self.temperature = temperature
        self.labels = temperature is None
        self.msp = MSP()

    @property
    def requires_fit(self) -> bool:
        """Whether the temperature has to be fitted."""
        return self.temperature is None

    def setup(self, info: NetworkInfo) -> None:
        """Declares the sums."""
        super().setup(info)
        self.add_state("derivative", torch.zeros(_POINTS, dtype=torch.float64), "sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, features: Features) -> None:
        """Adds a batch to the derivative of the negative log-likelihood by 1 / T, at each temperature."""
        if not self.requires_fit:
            return
        logits = features.logits
        own = logits.gather(1, labels_of(features)[:, None]).squeeze(1)  # [B]
        mean = [((logits / t).softmax(1) * logits).sum(1) for t in _temperatures()]  # expected logit, [B] each
        self.derivative = self.derivative + (torch.stack(mean) - own).double().sum(1)
        self.images = self.images + len(features)

    def compute(self) -> dict[str, Tensor]:
        """Computes the scalar ``temperature``, if it is not given."""
        if not self.requires_fit:
            return {}
        self._require_images(self.images)
        slope, logs = self.derivative.tolist(), [math.log(t) for t in _temperatures()]  # falls with T
        at = next((i for i, value in enumerate(slope) if value <= 0), None)
        if at is None:
            found = logs[-1]
        elif at == 0:
            found = logs[0]
        else:
            high, low = slope[at - 1], slope[at]
            found = logs[at - 1] + (logs[at] - logs[at - 1]) * high / (high - low)
        return {"temperature": torch.tensor(math.exp(found), dtype=torch.float32, device=self.derivative.device)}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch: ``[B]``, at most 0."""
        return self.msp.of_logits(features.logits / (self.temperature or fitted["temperature"]))

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """Returns the score ``[B]``, which is already the logarithm of a probability."""
        return self.score(features, fitted)

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """Returns the temperature."""
        return {"temperature": self.temperature or float(fitted["temperature"])}


def _temperatures() -> list[float]:
    """Returns the temperatures in ascending order."""
    return [_LARGEST ** (2 * i / (_POINTS - 1) - 1) for i in range(_POINTS)]
