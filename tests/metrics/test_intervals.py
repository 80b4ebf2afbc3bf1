import numpy as np
import pytest
from scipy.stats import beta, binom, norm

from lightning_ood.metrics.intervals import auroc_interval, delong, fpr95_draws, fpr95_interval
from lightning_ood.metrics.rates import compare, fpr95


def test_delong_hand_value():
    # placements of ID: 1, 1, 0.5; of OOD: 1, 2/3
    comparison = compare([4.0, 3.0, 1.0], [2.0, 0.0])
    mean, deviation = delong(comparison.id_placements, [comparison.ood_placements])
    assert (mean, deviation) == pytest.approx((5 / 6, np.sqrt((1 / 12) / 3 + (1 / 18) / 2)))


def test_auroc_interval_hand_value():
    # one ID image overlaps, and one OOD image: each variance counts once, and thrice at its bound 5/6 * 1/6
    comparison = compare([4.0, 3.0, 1.0], [2.0, 0.0])
    bound = 5 / 6 * 1 / 6
    variance = (1 / 12 + 3 * bound) / 4 / 3 + (1 / 18 + 3 * bound) / 4 / 2
    size = max(bound / variance, 2)
    ends = beta.ppf([0.025, 0.975], size * 5 / 6 + 0.5, size * 1 / 6 + 0.5)
    assert auroc_interval([comparison]) == pytest.approx(tuple(ends))
    # 100 images without overlap: Jeffreys' bound for none of 100, whatever the size of the other side
    for m in (100, 400):
        low, high = auroc_interval([compare(np.arange(100) + 1000.0, np.arange(m))])
        assert (low, high) == (pytest.approx(float(beta.ppf(0.025, 100.5, 0.5))), 1.0)
        assert auroc_interval([compare(-np.arange(100) - 1000.0, np.arange(m))]) == pytest.approx((0.0, 1 - low))


def covered(rng, n, sizes, gap, repetitions=500):
    """Shares of the simulated intervals that hold the true AUROC and FPR95, for N(gap_s, 1) ID against N(0, 1) OOD."""
    gaps = gap + 0.5 * np.arange(len(sizes))
    true_auroc = norm.cdf(gaps / np.sqrt(2)).mean()
    true_fpr95 = norm.sf(norm.ppf(0.05) + gaps).mean()
    hits = np.zeros(2)
    for repetition in range(repetitions):
        id_scores = rng.normal(0, 1, n)
        sets = [compare(id_scores, rng.normal(-g, 1, m)) for g, m in zip(gaps, sizes, strict=True)]
        draws = np.mean([fpr95_draws(c, str(s), repetition) for s, c in enumerate(sets)], axis=0)
        intervals = auroc_interval(sets), fpr95_interval(draws, float(np.mean([c.fpr95 for c in sets])))
        for i, (truth, (low, high)) in enumerate(zip((true_auroc, true_fpr95), intervals, strict=True)):
            hits[i] += low <= truth <= high
    return hits / repetitions


@pytest.mark.parametrize(("n", "sizes"), [(200, [200]), (1000, [100]), (150, [2000]), (200, [100, 300, 1000])])
def test_intervals_cover_the_truth(n, sizes):
    auroc_share, fpr95_share = covered(np.random.default_rng(n), n, sizes, gap=1.5)
    assert 0.91 <= auroc_share <= 0.985
    assert 0.91 <= fpr95_share <= 0.985


@pytest.mark.parametrize("true", [0.7, 0.9, 0.98, 0.998])
@pytest.mark.parametrize(("n", "sizes"), [(40, [40]), (100, [100]), (40, [400]), (400, [40]), (100, [40, 100, 100])])
def test_auroc_intervals_cover_up_to_one(true, n, sizes):
    rng = np.random.default_rng([n, *sizes])
    gap, repetitions = np.sqrt(2) * norm.ppf(true), 250
    hits = 0
    for _ in range(repetitions):
        id_scores = rng.normal(gap, 1, n)
        low, high = auroc_interval([compare(id_scores, rng.normal(0, 1, m)) for m in sizes])
        hits += low <= true <= high
    assert hits / repetitions >= 0.935  # Wald's covers 49 to 85 % at 0.998


@pytest.mark.parametrize("true", [0.05, 0.3, 0.6])
@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 400), (100, 100)])
def test_fpr95_intervals_cover_with_few_images(true, n, m):
    rng = np.random.default_rng([n, m])
    gap = norm.isf(true) - norm.ppf(0.05)
    hits = 0
    for repetition in range(300):
        comparison = compare(rng.normal(gap, 1, n), rng.normal(0, 1, m))
        low, high = fpr95_interval(fpr95_draws(comparison, seed=repetition), comparison.fpr95)
        hits += low <= true <= high
    assert hits / 300 >= 0.935  # the bootstrap covers 87.5 % at n = 40, m = 400


def test_draws_have_the_spread_of_the_bootstrap():
    rng = np.random.default_rng(3)
    comparison = compare(rng.normal(1.5, 1, 1200), rng.normal(0, 1, 900))
    resampled = [fpr95(rng.choice(comparison.id, 1200), rng.choice(comparison.ood, 900)) for _ in range(4000)]
    drawn = fpr95_draws(comparison)
    assert drawn.mean() == pytest.approx(np.mean(resampled), abs=0.01)
    assert drawn.std() == pytest.approx(np.std(resampled), rel=0.05)


def test_draws_by_hand():
    # 20 ID images: K = 0, 1, 2 ... lie below the true threshold; of 10 OOD images 9, 6, 5 are above the smallest three
    comparison = compare(np.arange(20.0), [-1.0, 0.5, 0.5, 0.5, 1.5, *[50.0] * 5])
    assert fpr95_draws(comparison).mean() == pytest.approx(_mean_by_hand(), abs=0.005)


def _mean_by_hand():
    accepted = [10, 9, 6, *[5] * 18, 0]  # 9 + 2 * (9 - 5) is more than 10
    middle = [(accepted[k] + accepted[k + 1]) / 2 for k in range(21)]
    return sum(binom.pmf(k, 20, 0.05) * (c + 0.5) / 11 for k, c in enumerate(middle))


def test_the_shared_threshold_is_drawn_once():
    # the same OOD images twice: averaging may halve their noise, not that of the threshold
    rng = np.random.default_rng(4)
    comparison = compare(rng.normal(1.5, 1, 100), rng.normal(0, 1, 100_000))
    one, other = fpr95_draws(comparison, "a"), fpr95_draws(comparison, "b")
    assert not np.array_equal(one, other)
    assert np.corrcoef(one, other)[0, 1] > 0.99
    placements = [comparison, comparison]
    assert np.ptp(auroc_interval(placements)) == pytest.approx(np.ptp(auroc_interval([comparison])), rel=0.01)


def test_intervals_at_the_edges():
    perfect = compare(np.arange(100) + 100.0, np.arange(20.0))
    low, high = fpr95_interval(fpr95_draws(perfect), perfect.fpr95)
    assert low == 0.0
    assert 0.02 < high < 0.2  # none of 20 accepted does not mean that none ever is
    assert auroc_interval([compare([1.0, 2.0], [0.0])]) == (0.0, 1.0)
    assert fpr95_interval(fpr95_draws(compare([1.0], [2.0])), 1.0)[1] == 1.0
