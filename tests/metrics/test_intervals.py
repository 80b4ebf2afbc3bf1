import numpy as np
import pytest

from lightning_ood.metrics.intervals import auroc_interval, fpr95_draws, fpr95_interval
from lightning_ood.metrics.rates import compare, fpr95


def test_delong_hand_value():
    # placements of ID: 1, 1, 0.5; of OOD: 1, 2/3
    comparison = compare([4.0, 3.0, 1.0], [2.0, 0.0])
    half = 1.959963984540054 * np.sqrt((1 / 12) / 3 + (1 / 18) / 2)
    assert auroc_interval([comparison]) == pytest.approx((5 / 6 - half, 1.0))


def covered(rng, n, sizes, gap, repetitions=300):
    """Shares of the simulated intervals that hold the true AUROC and FPR95, for N(gap_s, 1) ID against N(0, 1) OOD."""
    from scipy.stats import norm

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


def test_draws_are_those_of_the_bootstrap():
    rng = np.random.default_rng(3)
    comparison = compare(rng.normal(1.5, 1, 120), rng.normal(0, 1, 90))
    resampled = [
        fpr95(rng.choice(comparison.id, 120), rng.choice(comparison.ood, 90)) for _ in range(4000)
    ]  # what the closed form replaces
    drawn = fpr95_draws(comparison)
    assert drawn.mean() == pytest.approx(np.mean(resampled), abs=0.01)
    assert drawn.std() == pytest.approx(np.std(resampled), rel=0.05)


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
