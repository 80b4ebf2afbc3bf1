"""Conformal decisions: against crepes, by hand, and over 200 draws of a calibration set."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_ood.deploy.calibration import Calibration
from lightning_ood.deploy.conformal import (
    accept_for,
    benjamini_hochberg,
    class_p_values,
    guaranteed,
    p_values,
    rank,
    smallest,
    threshold,
    too_small,
)
from lightning_ood.deploy.joint import JointDecision
from lightning_ood.errors import InputError


def test_by_hand() -> None:
    calibration = np.array([1.0, 2.0, 2.0, 5.0])
    assert p_values(np.array([0.0, 1.0, 2.0, 9.0]), calibration).tolist() == [0.2, 0.4, 0.8, 1.0]
    assert rank(19, 0.95) == 1 and rank(99, 0.95) == 5 and smallest(0.95) == 19
    assert threshold(np.arange(99.0), 0.95) == 4.0


@pytest.mark.parametrize("accept", [0.8, 0.9, 0.95, 0.99])
def test_threshold_and_p_value_decide_alike(accept: float) -> None:
    generator = np.random.default_rng(0)
    calibration = np.sort(generator.normal(size=163).round(1))  # with ties
    scores = generator.normal(size=1000).round(1)
    assert ((p_values(scores, calibration) <= 1 - accept) == (scores < threshold(calibration, accept))).all()


def test_equals_crepes() -> None:
    from crepes.base import p_values_batch

    generator = np.random.default_rng(1)
    calibration, scores = generator.normal(size=150), generator.normal(size=80)
    theirs = p_values_batch(-calibration, -scores, smoothing=False)
    assert np.allclose(theirs, p_values(scores, np.sort(calibration)))


def test_mondrian_equals_crepes() -> None:
    from crepes.base import p_values_batch

    generator = np.random.default_rng(2)
    calibration, scores = generator.normal(size=300), generator.normal(size=90)
    classes, predicted = generator.integers(0, 3, 300), generator.integers(0, 3, 90)
    theirs = p_values_batch(-calibration, -scores, classes, predicted, smoothing=False)
    assert np.allclose(theirs, class_p_values(scores, predicted, calibration, classes))
    assert class_p_values(np.zeros(1), np.array([7]), calibration, classes).tolist() == [1.0]
    assert too_small(np.array([0] * 19 + [1] * 18), 0.95, 3) == {1: 18, 2: 0}


def test_200_draws_keep_the_stated_rates() -> None:
    """The mean acceptance is the one asked for; the 5 % quantile over draws is the stated guarantee."""
    generator = np.random.default_rng(3)
    n, accept = 199, 0.9
    draws = np.sort(generator.normal(size=(200, n)), axis=1)
    fresh = np.sort(generator.normal(size=200_000))
    thresholds = np.array([threshold(draw, accept) for draw in draws])
    accepted = 1 - np.searchsorted(fresh, thresholds) / len(fresh)
    error = accepted.std() / np.sqrt(200)
    assert abs(accepted.mean() - accept) < 4 * error
    bound = guaranteed(n, accept)
    below = (accepted < bound).sum()
    assert 1 <= below <= 22  # Binomial(200, 0.05): 0.9999 of its mass
    strict = accept_for(n, accept)
    thresholds = np.array([threshold(draw, strict) for draw in draws])
    assert ((1 - np.searchsorted(fresh, thresholds) / len(fresh)) < accept).sum() <= 22


def test_200_draws_keep_the_false_discovery_rate() -> None:
    generator = np.random.default_rng(4)
    rates = []
    for _ in range(200):
        calibration = np.sort(generator.normal(size=500))
        scores = np.concatenate([generator.normal(size=80), generator.normal(-4, 1, size=20)])
        found = benjamini_hochberg(p_values(scores, calibration), 0.2)
        rates.append(found[:80].sum() / max(found.sum(), 1))
        assert found[80:].mean() > 0.5
    assert np.mean(rates) < 0.2 * 0.8 + 4 * np.std(rates) / np.sqrt(200)


def test_benjamini_hochberg_by_hand() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.5])
    assert benjamini_hochberg(p, 0.06).tolist() == [True, True, True, False]
    assert benjamini_hochberg(np.array([0.9, 0.8]), 0.1).tolist() == [False, False]
    assert benjamini_hochberg(np.array([]), 0.1).tolist() == []


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="needs at least 99"):
        rank(50, 0.99)
    with pytest.raises(InputError, match="needs at least 59"):
        accept_for(30, 0.95)
    with pytest.raises(InputError, match=r"such as 0\.95"):
        threshold(np.arange(9.0), 95)
    with pytest.raises(InputError, match=r"such as 0\.1"):
        benjamini_hochberg(np.zeros(2), 1.5)


def test_a_joint_decision_keeps_its_rate_whatever_the_dependence() -> None:
    """200 draws of 200 calibration images; two detectors that agree, and a third that is independent of them."""
    rng = np.random.default_rng(0)

    def scores(count: int, shift: float = 0.0) -> dict[str, np.ndarray]:
        first = rng.normal(size=count) - shift
        noise = rng.normal(size=(2, count))
        return {"a": first, "b": first + 0.1 * noise[0], "c": noise[1] - shift}

    accepted, found = [], []
    for _ in range(200):
        drawn = {name: values.astype(np.float32) for name, values in scores(200).items()}
        joint = JointDecision(Calibration(drawn, np.zeros(200, int), np.zeros(200, int)), ["a", "b", "c"])
        assert len(joint) == 100
        accepted.append((joint.p_values(joint.combined(scores(500))) > 0.1).mean())
        found.append((joint.p_values(joint.combined(scores(500, shift=2))) <= 0.1).mean())
    error = np.std(accepted) / np.sqrt(200)
    assert np.mean(accepted) == pytest.approx(91 / 101, abs=4 * error), "floor(0.1 * 101) ranks are rejected"
    assert np.mean(found) > 0.7
    with pytest.raises(InputError, match="two or more"):
        JointDecision(Calibration(drawn, np.zeros(200, int), np.zeros(200, int)), ["a", "a"])
