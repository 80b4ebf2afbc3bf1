"""A check that a detector fits and scores beside other detectors in one suite as it does alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from torch import Tensor

from lightning_ood.detectors import list_detectors
from lightning_ood.detectors.base import Detector
from lightning_ood.suite import DetectorSuite
from lightning_ood.testing.assertions import require_same
from lightning_ood.testing.toy import Toy


def check_neighbours(make: Callable[[], Detector], toy: Toy) -> None:
    """Checks that in one suite with a twin and all other detectors, each fits and scores as it does alone.

    Raises:
        AssertionError: naming the detector and the one whose scores change.
    """
    alone = _scores_in_suite({"it": make()}, toy)["it"]
    expected = {"it": alone, "twin": alone, **_scores_alone(toy.attention)}
    for suite in (
        {"it": make(), "twin": make(), **_all_detectors()},
        {**_all_detectors(), "twin": make(), "it": make()},
    ):
        for name, scores in _scores_in_suite(suite, toy).items():
            require_same(scores, expected[name], suite["it"], f"{name} scores beside others as it does alone")


def _scores_in_suite(detectors: dict[str, Detector], toy: Toy) -> dict[str, Tensor]:
    suite = DetectorSuite(detectors)
    suite.setup(toy.info(toy.train().labels))
    train = toy(toy.train(), suite.reads("fit"))
    for batch in (slice(0, 150), slice(150, None)):
        suite.update(train.select(batch))
    for error in suite.compute().values():
        raise error
    scores = suite.score(toy(toy.id_test(), suite.reads("test")))  # [B, detectors]
    return dict(zip(detectors, scores.unbind(dim=1), strict=True))


def _all_detectors() -> dict[str, Detector]:
    return {name: kind() for name, kind in list_detectors().items()}


@cache
def _scores_alone(attention: bool) -> dict[str, Tensor]:
    toy = Toy(attention=attention)
    return {name: _scores_in_suite({name: detector}, toy)[name] for name, detector in _all_detectors().items()}
