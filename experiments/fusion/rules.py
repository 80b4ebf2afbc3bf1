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
from lightning_ood.detectors.combine.votes import log_odds
from lightning_ood.metrics.rates import compare

TODAY, CEILING = ("nap", "energy", "knn"), 1.0
FIVE = ("fdbd", "vim", "mds_pp", "maxlogit", "nap")
EIGHT = (*FIVE, "gen", "feature_norm", "layers_mds_oas")
JIGSAW = "view Jigsaw(grid=3, seed=0, border=False)"
SHARED = dict.fromkeys(("fdbd", "vim", "mds_pp", "gen", "nci", "cadref", "knn", "gram", "layers_mds_oas"), 0.5)
SHARED |= dict.fromkeys(("feature_norm", "feature_norm_last", "block_norm_last"), 0.5)
WEIGHTS: dict[str, dict[str, float]] = {
    "equal": {},
    "shared": SHARED,  # those of one kind count half
    "nap 1.5": SHARED | {"nap": 1.5, "layers_mds_oas": 0.25, "gram": 0.25},
}
POOLS: dict[str, tuple[str, ...]] = {
    "today": TODAY,
    "five": FIVE,
    "five + feature_norm": (*FIVE, "feature_norm"),
    "five + feature_norm_last": (*FIVE, "feature_norm_last"),
    "five + block_norm_last": (*FIVE, "block_norm_last"),
    "five + gen + layers": (*FIVE, "gen", "layers_mds_oas"),
    "five + feature_norm + layers": (*FIVE, "feature_norm", "layers_mds_oas"),
    "eight": EIGHT,
    "eight + nci": (*EIGHT, "nci"),
    "eight, gram for layers": (*EIGHT[:-1], "gram"),
    "eight, feature_norm_last": tuple("feature_norm_last" if name == "feature_norm" else name for name in EIGHT),
    **{f"eight without {name}": tuple(other for other in EIGHT if other != name) for name in EIGHT},
}
CEILINGS, POWERS, HELD_OUT, VOTES = (0.5, 1.0), (1.0, 1.5), (0.2, 0.0), ("votes", "alike")
Setting = tuple[str, float, float, float, str, str]  # pool, ceiling, power, held out, weights, votes
REFERENCE: Setting = ("today", CEILING, 1.0, 0.0, "equal", "alike")  # configs/detectors/fusion.yaml
EVIDENCE: Setting = ("five + feature_norm_last", 1.0, 1.5, 0.2, "shared", "alike")  # configs/detectors/evidence.yaml
VOTING: Setting = ("eight", 1.0, 1.0, 0.2, "nap 1.5", "votes")  # configs/detectors/weighted_evidence.yaml
FAMILY = {"densenet": "CIFAR", "resnet20": "CIFAR", "lite0": "ImageNet", "lite1": "ImageNet"}  # the others: digits
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

    def votes(self, half: str, columns: tuple[str, ...]) -> Tensor:
        ids, jigsaws = self.rows(half, "train", columns), self.rows(half, JIGSAW, columns)
        found = [compare(a, b).auroc for a, b in zip(ids.unbind(1), jigsaws.unbind(1), strict=True)]
        return log_odds(ids.new_tensor(found), len(ids))

    def auroc(
        self, columns: tuple[str, ...], rule: RobustZ | None, held_out: float, votes: str = "alike"
    ) -> list[float]:
        """AUROC of each set in percent, of a fusion or (without a rule) of one detector."""
        half = "part" if held_out else "all"
        id_scores = self.rows(half, "train", columns)
        given = self.votes(half, columns) if votes == "votes" else None
        joined = {
            name: rows[:, 0] if rule is None else rule(rows, id_scores, given)
            for name, rows in ((name, self.rows(half, name, columns)) for name in ("test", *self.sets))
        }
        return [100 * compare(joined["test"], joined[name]).auroc for name in self.sets]

    def of(self, setting: Setting) -> list[float]:
        pool, ceiling, power, held_out, weights, votes = setting
        factors = [WEIGHTS[weights].get(name, 1.0) for name in POOLS[pool]]
        return self.auroc(POOLS[pool], RobustZ(ceiling, power, factors), held_out, votes)

    def loss(self, setting: Setting) -> float:
        """Mean over sets of what is lost to the oracle."""
        return float((self.oracle - pd.Series(self.of(setting), self.sets)).mean())


def show(setting: Setting) -> str:
    pool, ceiling, power, held_out, weights, votes = setting
    return f"{pool}, ceiling {ceiling:g}, power {power:g}, held out {held_out:g}, {weights} weights, {votes}"


def row(*cells: object) -> None:
    print("| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |")


def header(*cells: str) -> None:
    print(f"\n## {cells[0]}\n")
    row(*cells[1:])
    row(*["---"] * (len(cells) - 1))


def choices(networks: list[Network], losses: pd.DataFrame, settings: list[Setting]) -> None:
    """Shows what is chosen on all networks but those of one family, and but each one."""
    header("Chosen on the other networks", "left out", "chosen on the others", "network", "lost", "evidence", "today's")
    families = [FAMILY.get(n.name, "digits") for n in networks]
    sets = [[n for n, of in zip(networks, families, strict=True) if of == family] for family in dict.fromkeys(families)]
    for left_out in [*([n] for n in networks), *(some for some in sets if len(some) > 1)]:
        chosen = int(losses.drop(columns=[n.name for n in left_out]).mean(axis=1).idxmin())
        for n in left_out:
            found = (float(losses.loc[chosen, n.name]), n.loss(EVIDENCE), n.loss(REFERENCE))  # type: ignore[arg-type]
            row(" and ".join(n.name for n in left_out), show(settings[chosen]), n.name, *found)


def each_set(networks: list[Network]) -> None:
    shown = {"weighted": VOTING, "evidence": EVIDENCE, "today's": REFERENCE}
    header("Each set", "network", "set", *shown, "best single", "its AUROC")
    total: list[list[float]] = []
    for n in networks:
        found = [n.of(setting) for setting in shown.values()]
        for i, name in enumerate(n.sets):
            line = [of_one[i] for of_one in found] + [float(n.oracle[name])]
            row(n.name, name, *line[:3], n.single[name].idxmax(), line[3])
            total.append(line)
    *means, oracle = torch.tensor(total).mean(0).tolist()
    row("mean", "", *means, "", oracle)
    header("Means over sets", "network", *shown, "best single detector by this mean", "its mean")
    for n in networks:
        single = n.single.mean(axis=1)
        means = [float(torch.tensor(n.of(setting)).mean()) for setting in shown.values()]
        row(n.name, *means, single.idxmax(), float(single.max()))
    both = pd.concat([n.single for n in networks], axis=1).dropna().mean(axis=1)
    row("all", *torch.tensor(total).mean(0).tolist()[:3], both.idxmax(), float(both.max()))


def show_votes(networks: list[Network]) -> None:
    header("Votes: log-odds against 3x3 jigsaws of held-out images", "network", *EIGHT)
    for n in networks:
        row(n.name, *n.votes("part", EIGHT).tolist())


def report(networks: list[Network]) -> None:
    settings: list[Setting] = list(product(POOLS, CEILINGS, POWERS, HELD_OUT[:1], WEIGHTS, VOTES))
    every = pd.DataFrame({n.name: [n.loss(some) for some in settings] for n in networks})
    best = settings[int(every.mean(axis=1).idxmin())]
    print("AUROC in percent. Lost: to the best single detector of each set, which an oracle chooses.")
    choices(networks, every, settings)
    each_set(networks)
    show_votes(networks)
    header("The ten best settings, and single changes of the first", "setting", "mean lost", "largest of a network")
    ranked = [settings[i] for i in every.mean(axis=1).sort_values().index[:10]]
    changed = [some for some in settings if sum(a != b for a, b in zip(some, best, strict=True)) == 1]
    for some in dict.fromkeys([*ranked, *changed, (*best[:3], HELD_OUT[1], *best[4:])]):
        lost = [n.loss(some) for n in networks]  # type: ignore[arg-type]
        row(show(some), sum(lost) / len(lost), max(lost))  # type: ignore[arg-type]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/fusion"))
    report([Network(path) for path in sorted(parser.parse_args().runs.glob("*.parquet"))])
