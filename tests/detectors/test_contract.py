"""Every detector of the package keeps the contract, and the contract detects one that breaks it."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lightning_ood.detectors import list_detectors
from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.block_norm import BlockNorm
from lightning_ood.detectors.dice import DICE
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.feature_norm import FeatureNorm
from lightning_ood.detectors.line import LINe
from lightning_ood.detectors.max_logit import MaxLogit
from lightning_ood.detectors.msp import MSP
from lightning_ood.detectors.nac import NAC, NACLayer
from lightning_ood.detectors.nap import NAP
from lightning_ood.detectors.odin import ODIN
from lightning_ood.detectors.react import ReAct
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.testing import check_detector

# The toy's products of activation and gradient are some hundred times those of the networks that alpha was chosen
# for: all its states saturate at alpha = 3000. A variant below is tried with an alpha for the toy.
ANSWERS_ANOTHER_QUESTION = {
    "NAC": "its default alpha saturates on the toy",
    "OpenMax": "weak noise has small logits, of which little goes to the unknown class",
    "MaxCosine": "cosines ignore the length of the feature, in which weak noise differs",
    "MCM": "so do its cosines",
    "OptFS": "a step function of 100 values is noise with the toy's 16 units",
}
# Random features, and the noise of perturbed weights, belong to units by their position.
ORDER_OF_UNITS_COUNTS = {"CoRP", "WeiPer"}


def test_the_folder_is_searched() -> None:
    assert {"MSP", "MaxLogit", "Energy", "DICE", "ReAct", "LINe", "NAP", "NAC", "FeatureNorm"} <= set(list_detectors())


@pytest.mark.parametrize("attention", [False, True], ids=["convolutional", "class_token"])
@pytest.mark.parametrize("detector", list_detectors().values(), ids=list_detectors())
def test_default(detector: type[Detector], attention: bool) -> None:
    name = detector.__name__
    separates, permutable = name not in ANSWERS_ANOTHER_QUESTION, name not in ORDER_OF_UNITS_COUNTS
    check_detector(detector, separates=separates, permutable=permutable, attention=attention)


VARIANTS: dict[str, Callable[[], Detector]] = {
    "react absolute": lambda: ReAct(threshold=1.0),
    "react msp": lambda: ReAct(MSP(), percentile=95),
    "dice maxlogit": lambda: DICE(70, MaxLogit()),
    "line without clipping": lambda: LINe(10, 10, None),
    "line units alone": lambda: LINe(None, 10, None),
    "line percentile": lambda: LINe(10, 10, clip_percentile=95, base=MaxLogit()),
    "nac alpha": lambda: NAC({"pooled": NACLayer(alpha=1.0)}),
    "nac maps": lambda: NAC({"block2": NACLayer(20, 10, 0.01), "last": NACLayer(alpha=0.1)}, images=200),
    "nac uniform": lambda: NAC({"pooled": NACLayer(bins=51, alpha=1.0)}, scheme="uniform", pool="mean"),
    "nap energy": lambda: NAP(Energy()),
    "nap msp": lambda: NAP(MSP(), weight=0.2),
    "nap dice": lambda: NAP(DICE(), head_reduction="none"),
    "nap react": lambda: NAP(ReAct(), form="map"),
    "nap nap": lambda: NAP(NAP(eps=0.1), head_reduction="max", self_entry=True),
    "feature norm block": lambda: FeatureNorm(block="last"),
    "feature norm raw": lambda: FeatureNorm(raw=True),
    "odin cold": lambda: ODIN(1.0),
    "odin step": lambda: ODIN(10.0, 0.05),
    "iodin": lambda: ODIN(10.0, 0.5, entries=1),
    "react odin step": lambda: ReAct(ODIN(10.0, 0.05)),
    "line odin step": lambda: LINe(10, 10, clip_percentile=95, base=ODIN(10.0, 0.05)),
    "block norm match": lambda: BlockNorm(match=True),
    "block norm odin step": lambda: BlockNorm(ODIN(10.0, 0.05), FeatureNorm(block="block2"), bias=False),
    "nap odin step": lambda: NAP(DICE(base=ODIN(10.0, 0.05)), form="map"),
    "feature norm blocks": lambda: FeatureNorm(blocks=["last", "block1"], grid=2, border=True),
}


@pytest.mark.parametrize("attention", [False, True], ids=["convolutional", "class_token"])
@pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS.keys())
def test_variant(make: Callable[[], Detector], attention: bool) -> None:
    check_detector(make, attention=attention)


class Mean(Detector):
    """Keeps the contract: the negative squared distance to the mean feature."""

    def setup(self, info: NetworkInfo) -> None:
        super().setup(info)
        self.add_state("sums", torch.zeros(info.num_features, dtype=torch.float64), "sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, features: Features) -> None:
        self.sums = self.sums + features.pooled.double().sum(0)
        self.images = self.images + len(features)

    def compute(self) -> dict[str, Tensor]:
        self._require_images(self.images)
        return {"mean": (self.sums / self.images).float()}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        return -(features.pooled - fitted["mean"]).square().sum(1)


class TakesEmptyFit(Mean):
    def compute(self) -> dict[str, Tensor]:
        return {"mean": (self.sums / self.images.clamp_min(1)).float()}


class RemembersLastBatch(Mean):
    def update(self, features: Features) -> None:
        self.sums, self.images = features.pooled.double().sum(0), torch.tensor(len(features))


class KeepsSumsOnReset(Mean):
    def reset(self) -> None:
        sums = self.sums
        super().reset()
        self.sums = sums


class DependsOnBatch(Mean):
    def score(self, features: Features, fitted: Fitted) -> Tensor:
        return super().score(features, fitted) - features.pooled.mean()


class ChangesFeatures(Mean):
    def score(self, features: Features, fitted: Fitted) -> Tensor:
        features.pooled.clamp_(max=1.0)
        return super().score(features, fitted)


class DividesByZero(Mean):
    def score(self, features: Features, fitted: Fitted) -> Tensor:
        return super().score(features, fitted) + (features.pooled.sum(1) / features.pooled.sum(1).square())


class ReadsUndeclared(Mean):
    def score(self, features: Features, fitted: Fitted) -> Tensor:
        return super().score(features, fitted) + features.maps["last"].sum((1, 2, 3))


class SumsOutside(Mean):
    def setup(self, info: NetworkInfo) -> None:
        super().setup(info)
        self.own = torch.zeros(info.num_features)

    def update(self, features: Features) -> None:
        super().update(features)
        self.own = self.own + features.pooled.sum(0)

    def compute(self) -> dict[str, Tensor]:
        return {**super().compute(), "mean": self.own / self.images}


class FirstUnit(Mean):
    def score(self, features: Features, fitted: Fitted) -> Tensor:
        return features.pooled[:, 1]


class Upside(Energy):
    def of_logits(self, logits: Tensor) -> Tensor:
        return -super().of_logits(logits)


class ReadsBack(Mean):
    def score(self, features: Features, fitted: Fitted) -> Tensor:
        return super().score(features, fitted) * float(fitted["mean"].norm() > 0)


class PicksRows(Mean):
    def update(self, features: Features) -> None:
        self.sums = self.sums + features.pooled[features.pooled.any(1)].double().sum(0)
        self.images = self.images + len(features)


class SendsAndWaits(Mean):
    def score(self, features: Features, fitted: Fitted) -> Tensor:
        weights = torch.ones(features.pooled.shape[1])
        return super().score(replace(features, pooled=features.pooled * weights.to(features.pooled.device)), fitted)


class SendsNumbers(Mean):
    def score(self, features: Features, fitted: Fitted) -> Tensor:
        return super().score(features, fitted) * features.pooled.new_tensor([2.0])


class LeavesOnHost(Mean):
    def score(self, features: Features, fitted: Fitted) -> Tensor:
        return super().score(replace(features, pooled=features.pooled * torch.ones(features.pooled.shape[1])), fitted)


def test_contract_is_kept_by_a_plain_detector() -> None:
    check_detector(Mean, separates=False)


@pytest.mark.parametrize(
    ("detector", "says"),
    [
        (TakesEmptyFit, "empty fit"),
        (RemembersLastBatch, "batched"),
        (KeepsSumsOnReset, "reset forgets|after a reset"),
        (SumsOutside, "two processes"),
        (DependsOnBatch, "does not depend on its batch"),
        (ChangesFeatures, "leaves pooled as it is"),
        (DividesByZero, "finite"),
        (FirstUnit, "order of units"),
        (ReadsBack, "score queues"),
        (PicksRows, "update queues"),
        (SendsAndWaits, "score queues.*beside"),
        (SendsNumbers, "score queues"),
        (LeavesOnHost, "score queues"),
        (Upside, "ID images score above"),
    ],
)
def test_contract_notices(detector: type[Detector], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_detector(detector, separates=detector is Upside)


def test_contract_hides_what_is_not_declared() -> None:
    with pytest.raises(KeyError, match="last"):
        check_detector(ReadsUndeclared, separates=False)
