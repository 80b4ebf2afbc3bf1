import numpy as np
import pytest
from scipy.stats import norm

from lightning_ood.metrics.paired_fpr95 import Decisions, fpr95_difference
from tests.metrics.test_paired import simulate


def both(id_scores, ood):
    return [[Decisions.of([id_scores[d]], [ood[d]])] for d in (0, 1)]


def test_fpr95_difference_by_hand():
    # 20 ID images 0 to 19: the threshold is 1, the second smallest score; the window is the five smallest
    id_scores = np.stack([np.arange(20.0), np.arange(20.0)])
    id_scores[1, :2] = 1.0, 0.0
    ood = np.array([[0.5, 1.5, 2.5, 9.0], [0.5, 0.5, 2.5, 9.0]])
    first, second = both(id_scores, ood)
    assert (first[0].rejected.nonzero()[0].tolist(), second[0].rejected.nonzero()[0].tolist()) == ([0], [1])
    assert (first[0].accepted.tolist(), second[0].accepted.tolist()) == ([0, 1, 1, 1], [0, 0, 1, 1])
    shares = np.array([[0, 1, 2, 3, 3], [0, 2, 2, 3, 3]]) / 4  # OOD images below the five smallest ID scores
    slopes = [np.polyfit(np.arange(5) / 20, each, 1)[0] for each in shares]
    assert (first[0].slope, second[0].slope) == pytest.approx(tuple(slopes))
    moved = np.zeros(20)
    moved[0], moved[1] = -(3 * slopes[0] + slopes[1]) / 4, (3 * slopes[1] + slopes[0]) / 4
    variance = moved.var(ddof=1) / 20 + 0.25 / 4 + 0.5 * (np.mean(slopes) / 20) ** 2
    found = fpr95_difference(first, second)
    assert found.estimate == -0.25
    assert found.p_value == pytest.approx(2 * norm.sf(0.25 / np.sqrt(variance)))
    assert found.high - found.low == pytest.approx(2 * 1.959964 * np.sqrt(variance))


def test_fpr95_difference_of_repetitions_and_sets():
    id_scores, ood = simulate(np.random.default_rng(0), 40, 30)
    once, twice = (Decisions.of([id_scores[0]] * k, [ood[0]] * k) for k in (1, 2))
    other = Decisions.of([id_scores[1]], [ood[1]])
    assert fpr95_difference([once], [other]) == fpr95_difference([twice], [other])
    same = fpr95_difference([once], [once])
    assert (same.estimate, same.p_value) == (0.0, 1.0)
    pair = fpr95_difference([once, once], [other, other])
    single = fpr95_difference([once], [other])
    assert pair.estimate == single.estimate
    assert 0.5 < (pair.high - pair.low) / (single.high - single.low) < 1  # the same ID images in both sets
    lonely = [Decisions.of([np.array([1.0])], [np.array([0.0])])]
    assert (fpr95_difference(lonely, lonely).low, fpr95_difference(lonely, lonely).high) == (-1.0, 1.0)


@pytest.mark.parametrize(("size", "correlation"), [(200, 0.8), (200, 0.98), (1000, 0.8), (1000, 0.98)])
def test_fpr95_test_has_its_size(size, correlation):
    rng = np.random.default_rng(6)
    p_values = []
    for _ in range(1000):
        pair = simulate(rng, size, size, (2.0, 2.0), np.sqrt(correlation))
        p_values.append(fpr95_difference(*both(*pair)).p_value)
    assert 0.03 <= np.mean(np.array(p_values) <= 0.05) <= 0.07  # the bootstrap: 0 to 0.04
    assert np.mean(np.array(p_values) <= 0.5) == pytest.approx(0.5, abs=0.1)  # rates are multiples of 1/size


def test_fpr95_intervals_cover_a_difference():
    rng = np.random.default_rng(7)
    true = norm.sf(norm.ppf(0.05) + 2.3) - norm.sf(norm.ppf(0.05) + 2.0)
    found = [fpr95_difference(*both(*simulate(rng, 300, 300, (2.0, 2.3), 0.95))) for _ in range(600)]
    assert 0.93 <= np.mean([each.low <= true <= each.high for each in found]) <= 0.975
