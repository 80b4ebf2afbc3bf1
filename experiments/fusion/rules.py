"""Chooses members and rule of a fusion on all networks but one, and shows the choice on that one.

python experiments/fusion/rules.py [--runs runs/fusion] > experiments/fusion/results/networks.md

Reads the scores that scores.py wrote. The criterion is what a fusion loses to the best single detector of each set, an
oracle, in AUROC: the mean over the sets of a network, then over networks.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from scores import variants

from lightning_ood.detectors.combine.fusion import RobustZ
from lightning_ood.metrics.rates import compare

TODAY, CEILING = ("nap", "energy", "knn"), 1.0
FIVE = ("fdbd", "vim", "mds_pp", "maxlogit", "nap")
SHARED = {"fdbd": 0.5, "vim": 0.5, "mds_pp": 0.5, "nci": 0.5, "cadref": 0.5, "knn": 0.5} | dict.fromkeys(
    ("feature_norm", "feature_norm_last", "block_norm_last"), 0.5
)
POOLS: dict[str, tuple[str, ...]] = {
    "today": TODAY,
    "five": FIVE,
    "five + feature_norm": (*FIVE, "feature_norm"),
    "five + feature_norm_last": (*FIVE, "feature_norm_last"),
    "five + block_norm_last": (*FIVE, "block_norm_last"),
    "five + both": (*FIVE, "feature_norm_last", "block_norm_last"),
    "energy for maxlogit": ("fdbd", "vim", "energy", "mds_pp", "nap", "block_norm_last"),
    "nci for fdbd": ("nci", "vim", "maxlogit", "mds_pp", "nap", "block_norm_last"),
    "cadref for fdbd": ("cadref", "vim", "maxlogit", "mds_pp", "nap", "block_norm_last"),
    "without nap": ("fdbd", "vim", "maxlogit", "mds_pp", "block_norm_last"),
    "without vim": ("fdbd", "maxlogit", "mds_pp", "nap", "block_norm_last"),
    "without mds_pp": ("fdbd", "vim", "maxlogit", "nap", "block_norm_last"),
}
CEILINGS, POWERS, HELD_OUT = (0.0, 0.5, 1.0), (1.0, 1.5, 2.0), (0.2, 0.0)
WEIGHTS = ("equal", "shared")  # shared: those of one kind count half
Setting = tuple[str, float, float, float, str]  # pool, ceiling, power, held out, weights
REFERENCE: Setting = ("today", CEILING, 1.0, 0.0, "equal")  # configs/detectors/fusion.yaml
EVIDENCE: Setting = ("five + feature_norm_last", 1.0, 1.5, 0.2, "shared")  # configs/detectors/evidence.yaml
NOT_SINGLE = {"fusion", "evidence", "set", "half", "correct"} | (variants().keys() - {"gram"})


class Network:
    """The scores of one network, and what the best single detector reaches on each of its sets."""

    def __init__(self, path: Path) -> None:
        self.name, self.table = path.stem, pd.read_parquet(path)
        self.parts: dict[tuple[str, str], dict[str, Tensor]] = {}
        sets = [str(name) for name in self.table["set"].unique()]
        self.sets = [name for name in sets if name not in ("train", "test") and not name.startswith("view")]
        self.singles = [column for column in self.table if column not in NOT_SINGLE]
        whole = [self.auroc((column,), None, 0.0) for column in self.singles]  # [detectors][sets]
        self.single = pd.DataFrame(whole, self.singles, self.sets)
        self.oracle = self.single.max()

    def rows(self, half: str, name: str, columns: tuple[str, ...]) -> Tensor:
        if (half, name) not in self.parts:
            chosen = (self.table["half"] == half) & (self.table["set"] == name)
            numbers = self.table.loc[chosen].drop(columns=["set", "half", "correct"])
            self.parts[half, name] = dict(zip(numbers, torch.tensor(numbers.to_numpy(float)).T, strict=True))
        return torch.stack([self.parts[half, name][column] for column in columns], dim=1)

    def auroc(self, columns: tuple[str, ...], rule: RobustZ | None, held_out: float) -> list[float]:
        """AUROC of each set in percent, of a fusion or (without a rule) of one detector."""
        half = "part" if held_out else "all"
        id_scores = self.rows(half, "train", columns)
        joined = {
            name: rows[:, 0] if rule is None else rule(rows, id_scores)
            for name, rows in ((name, self.rows(half, name, columns)) for name in ("test", *self.sets))
        }
        return [100 * compare(joined["test"], joined[name]).auroc for name in self.sets]

    def of(self, setting: Setting) -> list[float]:
        pool, ceiling, power, held_out, weights = setting
        factors = [SHARED.get(name, 1.0) for name in POOLS[pool]] if weights == "shared" else None
        return self.auroc(POOLS[pool], RobustZ(ceiling, power, factors), held_out)

    def loss(self, setting: Setting) -> float:
        """Mean over sets of what is lost to the oracle."""
        return float((self.oracle - pd.Series(self.of(setting), self.sets)).mean())


def show(setting: Setting) -> str:
    pool, ceiling, power, held_out, weights = setting
    return f"{pool}, ceiling {ceiling:g}, power {power:g}, held out {held_out:g}, {weights} weights"


def row(*cells: object) -> None:
    print("| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |")


def header(*cells: str) -> None:
    print(f"\n## {cells[0]}\n")
    row(*cells[1:])
    row(*["---"] * (len(cells) - 1))


def report(networks: list[Network]) -> None:
    missing = {c for pool in POOLS.values() for c in pool for n in networks if c not in n.table}
    settings = [
        (name, *rest)
        for name, *rest in product(POOLS, CEILINGS, POWERS, HELD_OUT, WEIGHTS)
        if not missing & {*POOLS[str(name)]}
    ]
    every = pd.DataFrame({n.name: [n.loss(some) for some in settings] for n in networks})  # type: ignore[arg-type]
    losses = every[[some[3] > 0 for some in settings]]  # the others are shown, and not chosen
    best = int(losses.mean(axis=1).idxmin())
    print("AUROC in percent. Lost: to the best single detector of each set, which an oracle chooses.")
    if missing:
        print(f"Not scored on all networks: {', '.join(sorted(missing))}.")
    header("Chosen on the other networks", "network", "chosen on the others", "lost", "today's", "single", "lost by it")
    singles = pd.concat([n.single.sub(n.oracle).mean(axis=1).rename(n.name) for n in networks], axis=1).dropna()
    for network in networks:
        chosen = int(losses.drop(columns=network.name).mean(axis=1).idxmin())
        single = str(singles.drop(columns=network.name).mean(axis=1).idxmax())
        found = (losses.loc[chosen, network.name], network.loss(REFERENCE), single, -singles.loc[single, network.name])
        row(network.name, show(settings[chosen]), *found)  # type: ignore[arg-type]
    header("Each set: evidence.yaml", "network", "set", "evidence", "today's", "best single", "its AUROC")
    total: list[list[float]] = []
    for n in networks:
        sixth = EVIDENCE if not missing & {*POOLS[EVIDENCE[0]]} else ("five + feature_norm", *EVIDENCE[1:])
        fused, today = n.of(sixth), n.of(REFERENCE)  # type: ignore[arg-type]
        for name, one, other in zip(n.sets, fused, today, strict=True):
            row(n.name, name, one, other, n.single[name].idxmax(), float(n.oracle[name]))
            total.append([one, other, float(n.oracle[name])])
    row("mean", "", *torch.tensor(total).mean(0).tolist()[:2], "", torch.tensor(total).mean(0).tolist()[2])
    header(
        "The ten best settings, and single changes of the first", "setting", "mean lost", "largest lost of a network"
    )
    changes = [sum(a != b for a, b in zip(some, settings[best], strict=True)) for some in settings]
    ranked = list(losses.mean(axis=1).sort_values().index[:10])
    for i in dict.fromkeys([*ranked, *(i for i, count in enumerate(changes) if count == 1)]):
        row(show(settings[i]), float(every.loc[i].mean()), float(every.loc[i].max()))  # type: ignore[arg-type]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/fusion"))
    report([Network(path) for path in sorted(parser.parse_args().runs.glob("*.parquet"))])
