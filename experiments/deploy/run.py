"""The guarantees of exported detectors, measured by drawing calibration sets and streams; writes results/*.md.

python experiments/deploy/run.py --scores runs/cifar10_resnet20/scores.parquet              # all, ten minutes
python experiments/deploy/run.py --scores runs/cifar10_resnet20/scores.parquet --draws 20   # coarser
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from lightning_ood.deploy.conformal import (  # noqa: E402
    accept_for,
    benjamini_hochberg,
    class_p_values,
    guaranteed,
    p_values,
    threshold,
)
from lightning_ood.deploy.martingale import Martingale, OnlineRanks  # noqa: E402
from lightning_ood.deploy.monitor import Monitor  # noqa: E402
from lightning_ood.errors import InputError  # noqa: E402
from lightning_ood.report.markdown import markdown_table  # noqa: E402
from lightning_ood.statistics.quantile import SIZE  # noqa: E402

DETECTORS = ("energy", "nap", "fusion")
LIMIT = np.log(20)  # of the capital, for an alarm with probability 0.05
CALIBRATION = 300


def acceptance(table: pd.DataFrame, draws: int) -> Iterator[list[str]]:
    """Yields, per detector, n and asked acceptance: the acceptance that drawn calibration sets realise.

    The ID test images are the population: calibration images are drawn from them with replacement, so that the
    acceptance of a threshold is known.
    """
    for name in DETECTORS:
        scores = table.loc[table["role"] == "id", name].to_numpy()
        for n in (100, 300):
            for accept in (0.9, 0.95):
                rng = np.random.default_rng([n, round(100 * accept)])
                plain, strict, below = [], [], 0
                bound = guaranteed(n, accept)
                try:
                    asked = accept_for(n, accept)
                except InputError:
                    asked = None
                for _ in range(draws):
                    calibration = np.sort(rng.choice(scores, n))
                    plain.append((scores >= threshold(calibration, accept)).mean())
                    below += plain[-1] < bound
                    if asked is not None:
                        strict.append((scores >= threshold(calibration, asked)).mean() < accept)
                yield [
                    *(name, str(n), f"{accept:.0%}", f"{np.mean(plain):.2%}", f"{np.std(plain) / draws**0.5:.2%}"),
                    *(f"{bound:.1%}", f"{below / draws:.1%}", "-" if asked is None else f"{np.mean(strict):.1%}"),
                ]


def by_class(table: pd.DataFrame, draws: int) -> Iterator[list[str]]:
    """Yields, per detector, the smallest and largest mean acceptance over predicted classes, plain and by class."""
    rows = table[table["role"] == "id"]
    predictions = rows["prediction"].to_numpy()
    for name in DETECTORS:
        scores, rng = rows[name].to_numpy(), np.random.default_rng(0)
        found: dict[str, list[list[float]]] = {"plain": [], "by class": []}
        for _ in range(draws):
            order = rng.permutation(len(scores))
            known, rest = order[:500], order[500:]
            p = {
                "plain": p_values(scores[rest], np.sort(scores[known])),
                "by class": class_p_values(scores[rest], predictions[rest], scores[known], predictions[known]),
            }
            for kind, values in p.items():
                found[kind].append([(values[predictions[rest] == k] > 0.1).mean() for k in range(10)])
        for kind, values in found.items():
            means = np.mean(values, axis=0)
            yield [name, kind, f"{means.min():.1%}", f"{means.max():.1%}"]


def discoveries(table: pd.DataFrame, draws: int) -> Iterator[list[str]]:
    """Yields, per detector and OOD set, the mean share of false alarms among the alarms of a folder, and the power."""
    for name in DETECTORS:
        scores = table.loc[table["role"] == "id", name].to_numpy()
        for other in table.loc[table["role"] == "ood", "dataset"].unique():
            ood = table.loc[table["dataset"] == other, name].to_numpy()
            rng, rates, powers = np.random.default_rng(0), [], []
            for _ in range(draws):
                order = rng.permutation(len(scores))
                mixed = np.concatenate([scores[order[600:800]], rng.choice(ood, 50, replace=False)])
                found = benjamini_hochberg(p_values(mixed, np.sort(scores[order[:600]])), 0.1)
                rates.append(found[:200].sum() / max(found.sum(), 1))
                powers.append(found[200:].mean())
            yield [
                name,
                str(other),
                f"{np.mean(rates):.1%}",
                f"{np.std(rates) / draws**0.5:.1%}",
                f"{np.mean(powers):.1%}",
            ]


def watch(rng: np.random.Generator, scores: np.ndarray, stream: np.ndarray) -> np.ndarray:
    """Returns the logarithm of the capital after each image of a stream; the calibration images are drawn anew."""
    calibration = Monitor._bins(rng.choice(scores, CALIBRATION))
    ranks = OnlineRanks(np.bincount(calibration, minlength=SIZE), seed=int(rng.integers(2**31)))
    return Martingale().update(ranks(Monitor._bins(stream)))


def false_alarms(table: pd.DataFrame, draws: int, length: int) -> Iterator[list[str]]:
    """Yields, per detector, the share of ID streams that raise an alarm."""
    for name in DETECTORS:
        scores, rng = table.loc[table["role"] == "id", name].to_numpy(), np.random.default_rng(0)
        peaks = [watch(rng, scores, rng.choice(scores, length)).max() for _ in range(draws)]
        alarms = np.mean(np.array(peaks) >= LIMIT)
        yield [name, str(draws), str(length), f"{alarms:.1%}", f"{np.exp(np.quantile(peaks, 0.95)):.1f}"]


def delays(table: pd.DataFrame, draws: int) -> Iterator[list[str]]:
    """Yields, per detector, ID images before the change and share of textures after it, the images until the alarm."""
    textures = table[table["dataset"] == "textures"]
    for name in DETECTORS:
        scores, ood = table.loc[table["role"] == "id", name].to_numpy(), textures[name].to_numpy()
        for before in (0, 1000, 20_000):
            for share in (1.0, 0.5, 0.2, 0.1, 0.05):
                rng, found = np.random.default_rng(0), []
                for _ in range(draws):
                    after = np.where(rng.random(5000) < share, rng.choice(ood, 5000), rng.choice(scores, 5000))
                    stream = np.concatenate([rng.choice(scores, before), after])
                    over = np.flatnonzero(watch(rng, scores, stream) >= LIMIT)
                    found.append(over[0] + 1 - before if len(over) else np.inf)
                seen = np.array(found)[np.array(found) > 0]  # without alarms before the change
                shown = ["-" if np.isinf(v) else f"{v:.0f}" for v in np.quantile(seen, [0.5, 0.9], method="higher")]
                yield [name, str(before), f"{share:.0%}", *shown, f"{np.isfinite(seen).mean():.0%}"]


TABLES = {
    "acceptance": ["detector", "n", "asked", "accepted", "s.e.", "bound", "draws below it", "strict: below asked"],
    "by_class": ["detector", "p-values", "lowest class", "highest class"],
    "discoveries": ["detector", "OOD set", "false among alarms", "s.e.", "OOD found"],
    "false_alarms": ["detector", "streams", "images each", "with an alarm", "95 % quantile of the largest capital"],
    "delays": ["detector", "ID images before", "OOD share", "median delay", "90 % quantile", "alarms in 5000"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(TABLES)}; all by default")
    parser.add_argument("--scores", type=Path, required=True, help="scores.parquet of a run with textures")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--length", type=int, default=100_000, help="images of an ID stream")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    table = pd.read_parquet(options.scores)
    made = {
        "acceptance": lambda: acceptance(table, options.draws),
        "by_class": lambda: by_class(table, options.draws),
        "discoveries": lambda: discoveries(table, options.draws),
        "false_alarms": lambda: false_alarms(table, options.draws, options.length),
        "delays": lambda: delays(table, max(options.draws // 4, 2)),
    }
    options.results.mkdir(parents=True, exist_ok=True)
    for name in options.tables or TABLES:
        text = markdown_table(TABLES[name], list(made[name]()), labels=1)
        (options.results / f"{name}.md").write_text(text + "\n")
        print(f"\n{name}\n{text}", flush=True)


if __name__ == "__main__":
    main()
