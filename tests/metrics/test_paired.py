import numpy as np
import pytest
from scipy.stats import norm

from lightning_ood.metrics.paired import Placements, auroc_difference, bootstrap, drawn_difference, resamples
from lightning_ood.metrics.rates import auroc, fpr95


def simulate(rng, n, m, gaps=(1.0, 1.0), shared=0.7):
    """Two detectors' scores of the same images, correlated."""
    known, other = rng.normal(size=(1, n)), rng.normal(size=(1, m))
    noise = np.sqrt(1 - shared**2)
    id_scores = shared * known + noise * rng.normal(size=(2, n)) + np.array(gaps)[:, None]
    return id_scores, shared * other + noise * rng.normal(size=(2, m))


def delong_by_pairs(id_scores, oods):
    """From the definition: the kernel of every pair of images, covariances of its means, one set after the other."""
    n, covariance, estimate = id_scores.shape[1], np.zeros((2, 2)), np.zeros(2)
    rows = np.zeros((2, n))
    for ood in oods:
        kernel = (id_scores[:, :, None] > ood[:, None]) + 0.5 * (id_scores[:, :, None] == ood[:, None])
        rows += kernel.mean(axis=2) / len(oods)
        estimate += kernel.mean(axis=(1, 2)) / len(oods)
        covariance += np.cov(kernel.mean(axis=1)) / ood.shape[1] / len(oods) ** 2
    covariance += np.cov(rows) / n
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    return estimate[1] - estimate[0], np.sqrt(variance)


def test_delong_by_hand():
    # ID 2, 4 against OOD 1, 3: kernel rows (1, 0), (1, 1); the second detector has them all right.
    first = Placements.of([np.array([2.0, 4.0])], [np.array([1.0, 3.0])])
    second = Placements.of([np.array([2.0, 4.0])], [np.array([1.0, 0.0])])
    found = auroc_difference([first], [second])
    # differences of placements: ID (1/2, 0), OOD (0, 1/2): each of variance 1/8, over two images
    assert found.estimate == pytest.approx(0.25)
    assert found.p_value == pytest.approx(2 * norm.sf(0.25 / np.sqrt(1 / 8)))
    assert (found.low, found.high) == pytest.approx((0.25 - 1.959964 / np.sqrt(8), 0.25 + 1.959964 / np.sqrt(8)))


def test_delong_is_that_of_all_pairs_of_images():
    rng = np.random.default_rng(0)
    id_scores, first_set = (np.round(s, 1) for s in simulate(rng, 60, 50, (1.0, 1.3)))  # with ties
    _, second_set = (np.round(s, 1) for s in simulate(rng, 60, 31))
    sides = [[Placements.of([id_scores[d]], [ood[d]]) for ood in (first_set, second_set)] for d in (0, 1)]
    found = auroc_difference(*sides)
    estimate, deviation = delong_by_pairs(id_scores, [first_set, second_set])
    assert found.estimate == pytest.approx(estimate)
    assert found.high - found.estimate == pytest.approx(1.959964 * deviation)
    assert found.p_value == pytest.approx(2 * norm.sf(abs(estimate) / deviation))
    both = Placements.of(list(id_scores), list(first_set))  # a mean of two repetitions
    assert both.id.mean() == pytest.approx(np.mean([auroc(id_scores[d], first_set[d]) for d in (0, 1)]))


def test_the_same_scores_do_not_differ():
    id_scores, ood = simulate(np.random.default_rng(0), 40, 30)
    same = [Placements.of([id_scores[0]], [ood[0]])]
    assert auroc_difference(same, same).p_value == 1.0
    draws = bootstrap(id_scores[[0, 0]], {"a": ood[[0, 0]]}, draws=100)["a"]
    found = drawn_difference(0.0, *draws)
    assert (found.low, found.high, found.p_value) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("n", [7, 45])
def test_bootstrap_is_the_metric_of_resampled_images(n):
    rng = np.random.default_rng(1)
    id_scores, ood = (np.round(s, 1) for s in simulate(rng, n, 30))
    oods = {"a": ood, "b": ood[:, :11] + 0.5}
    drawn = {metric: bootstrap(id_scores, oods, draws=260, seed=3, metric=metric) for metric in ("fpr95", "auroc")}
    known = np.concatenate(list(resamples(n, 260, 3))).astype(int)
    assert (known.sum(axis=1) == n).all()
    for name, scores in oods.items():
        other = np.concatenate(list(resamples(scores.shape[1], 260, 3, name))).astype(int)
        for b in (0, 1, 249, 250, 259):
            for d in (0, 1):
                images = np.repeat(id_scores[d], known[b]), np.repeat(scores[d], other[b])
                assert drawn["fpr95"][name][d, b] == pytest.approx(fpr95(*images))
                assert drawn["auroc"][name][d, b] == pytest.approx(auroc(*images))
    alone = bootstrap(id_scores[1:], {"b": oods["b"][1:]}, draws=260, seed=3)["b"]
    np.testing.assert_array_equal(alone[0], drawn["fpr95"]["b"][1])  # whatever else is drawn


def test_both_ways_agree_on_auroc():
    id_scores, ood = simulate(np.random.default_rng(2), 400, 300, (1.0, 1.2))
    exact = auroc_difference(*([Placements.of([id_scores[d]], [ood[d]])] for d in (0, 1)))
    drawn = drawn_difference(exact.estimate, *bootstrap(id_scores, {"a": ood}, draws=3000, metric="auroc")["a"])
    assert (drawn.low, drawn.high) == pytest.approx((exact.low, exact.high), abs=0.1 * (exact.high - exact.low))
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.01)


def test_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(4)
    delong, boot = [], []
    for trial in range(400):
        id_scores, ood = simulate(rng, 120, 100)
        delong.append(auroc_difference(*([Placements.of([id_scores[d]], [ood[d]])] for d in (0, 1))).p_value)
        boot.append(drawn_difference(0.0, *bootstrap(id_scores, {"a": ood}, draws=200, seed=trial)["a"]).p_value)
    for level in (0.05, 0.2, 0.5, 0.8):
        share = np.mean(np.array(delong) <= level)
        assert share == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / 400))
    # FPR95 hangs on one order statistic of the ID scores, and the bootstrap of a quantile is a little conservative
    assert 0.01 <= np.mean(np.array(boot) <= 0.05) <= 0.08
    assert 0.35 <= np.mean(np.array(boot) <= 0.5) <= 0.6
