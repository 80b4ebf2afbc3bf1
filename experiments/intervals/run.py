"""Coverage of the intervals and size of the paired test of FPR95, by simulation; writes results/*.md.

python experiments/intervals/run.py                      # all, some minutes
python experiments/intervals/run.py auroc --draws 300    # one table, coarser
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from scipy.stats import norm  # noqa: E402

from lightning_ood.metrics.intervals import Z, auroc_interval, delong, fpr95_draws, fpr95_interval  # noqa: E402
from lightning_ood.metrics.paired import bootstrap, drawn_difference  # noqa: E402
from lightning_ood.metrics.paired_fpr95 import Decisions, fpr95_difference  # noqa: E402
from lightning_ood.metrics.rates import compare  # noqa: E402
from lightning_ood.report.markdown import markdown_table  # noqa: E402

Sample = Callable[[np.random.Generator, int], np.ndarray]
SHAPES: dict[str, tuple[Sample, Sample]] = {  # ID and OOD scores up to a shift
    "normal": (lambda rng, n: rng.normal(size=n), lambda rng, n: rng.normal(size=n)),
    "OOD twice as wide": (lambda rng, n: rng.normal(size=n), lambda rng, n: 2 * rng.normal(size=n)),
    "t, 4 degrees": (lambda rng, n: rng.standard_t(4, n), lambda rng, n: rng.standard_t(4, n)),
    "exponential tails": (lambda rng, n: -rng.exponential(size=n), lambda rng, n: -rng.exponential(size=n)),
}
SIZES = [(40, [40]), (100, [100]), (1000, [1000]), (40, [400]), (400, [40]), (1000, [100]), (100, [40, 100, 100])]
LARGE = 2_000_000  # scores from which a shift is solved


def auroc_table(draws: int) -> Iterator[list[str]]:
    """Yields coverage and median width of Wald's and of our interval of AUROC, per shape, sizes and true value."""
    for shape, (of_id, of_ood) in SHAPES.items():
        rng = np.random.default_rng(0)
        differences = np.sort(of_id(rng, LARGE) - of_ood(rng, LARGE))
        for n, sizes in SIZES:
            for true in (0.7, 0.9, 0.98, 0.998):
                shift = -np.quantile(differences, 1 - true)
                rng = np.random.default_rng([n, *sizes])
                found = []
                for _ in range(draws):
                    id_scores = of_id(rng, n) + shift
                    sets = [compare(id_scores, of_ood(rng, m)) for m in sizes]
                    placements = np.mean([c.id_placements for c in sets], axis=0)
                    mean, deviation = delong(placements, [c.ood_placements for c in sets])
                    wald = max(mean - Z * deviation, 0.0), min(mean + Z * deviation, 1.0)
                    found.append([*wald, *auroc_interval(sets)])
                ends = np.array(found).reshape(-1, 2, 2)
                yield [shape, str(n), ", ".join(map(str, sizes)), f"{100 * true:.1f}", *_coverage(ends, true)]


def fpr95_table(draws: int) -> Iterator[list[str]]:
    """Yields coverage and median width of the interval of FPR95, per shape, sizes and true value."""
    for shape, (of_id, of_ood) in SHAPES.items():
        rng = np.random.default_rng(0)
        threshold, ood = np.quantile(of_id(rng, LARGE), 0.05), of_ood(rng, LARGE)
        for n, sizes in SIZES[:-1]:
            for true in (0.05, 0.3, 0.6):
                shift = np.quantile(ood, 1 - true) - threshold
                rng = np.random.default_rng([n, *sizes])
                found = []
                for draw in range(draws):
                    pair = compare(of_id(rng, n) + shift, of_ood(rng, sizes[0]))
                    found.append(fpr95_interval(fpr95_draws(pair, seed=draw), pair.fpr95))
                ends = np.array(found)[:, None]
                yield [shape, str(n), str(sizes[0]), f"{100 * true:.0f}", *_coverage(ends, true)]


def _coverage(ends: np.ndarray, true: float) -> list[str]:
    """Formats coverage and median width in percent of intervals ``[draws, methods, 2]``."""
    cells = []
    for low, high in np.moveaxis(ends, 0, 2):
        held = (low <= true) & (true <= high)
        cells += [f"{100 * held.mean():.1f}", f"{100 * np.median(high - low):.1f}"]
    return cells


def paired_table(draws: int) -> Iterator[list[str]]:
    """Yields how often the tests reject equal FPR95 at 5 %, to either side, and how often the intervals cover."""
    for gaps in ((2.0, 2.0), (1.0, 1.0), (3.0, 3.0), (2.0, 2.3), (1.5, 2.5)):
        true = norm.sf(norm.ppf(0.05) + np.array(gaps))
        for n, m in ((200, 200), (1000, 1000), (1000, 200), (100, 1000)):
            for correlation in (0.8, 0.98):
                rng = np.random.default_rng([n, m])
                found = []
                for draw in range(draws):
                    id_scores, ood = (_correlated(rng, k, correlation) for k in (n, m))
                    id_scores += np.array(gaps)[:, None]
                    first, second = ([Decisions.of([i], [o])] for i, o in zip(id_scores, ood, strict=True))
                    delta = fpr95_difference(first, second)
                    found.append([delta.low, delta.high])
                    if draw < draws // 4 and gaps == (2.0, 2.0) and n == m:
                        drawn = bootstrap(id_scores, {"": ood}, draws=400, seed=draw)[""]
                        slow = drawn_difference(delta.estimate, *drawn)
                        found[-1] += [slow.low, slow.high]
                miss = [_misses([f[:2] for f in found], true[1] - true[0])]
                miss += [_misses([f[2:] for f in found if f[2:]], true[1] - true[0])]
                what = [str(n), str(m), f"{correlation}", *(f"{100 * each:.1f}" for each in true)]
                yield [*what, *miss[0], miss[1][2] if miss[1] else ""]


def _correlated(rng: np.random.Generator, size: int, correlation: float) -> np.ndarray:
    shared = np.sqrt(correlation) * rng.normal(size=(1, size))
    return shared + np.sqrt(1 - correlation) * rng.normal(size=(2, size))


def _misses(ends: list[list[float]], true: float) -> list[str]:
    """Formats in percent how often intervals lie below the truth, above it, and either."""
    if not ends:
        return []
    low, high = np.array(ends).T
    below, above = (high < true).mean(), (low > true).mean()
    return [f"{100 * share:.1f}" for share in (below, above, below + above)]


TABLES = {
    "auroc": (auroc_table, ["scores", "n", "m", "AUROC", "Wald covers", "width", "ours covers", "width"], 1000),
    "fpr95": (fpr95_table, ["scores", "n", "m", "FPR95", "covers", "width"], 1000),
    "paired_fpr95": (
        paired_table,
        ["n", "m", "correlation", "FPR95", "FPR95", "below", "above", "both", "bootstrap, both"],
        4000,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", help=f"some of {', '.join(TABLES)}; all by default")
    parser.add_argument("--draws", type=int, help="simulations a row")
    options = parser.parse_args()
    for name in options.tables or TABLES:
        rows, heads, draws = TABLES[name]
        text = markdown_table(heads, list(rows(options.draws or draws)))
        (Path(__file__).parent / "results" / f"{name}.md").write_text(text + "\n")
        print(text)


if __name__ == "__main__":
    main()
