"""Which detectors and which rule to fuse, chosen on pseudo-OOD; real OOD sets are shown, and choose nothing.

python experiments/fusion/run.py densenet resnet20 [--root data] [--cache runs/kit] \
    > experiments/fusion/results/table.md
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from kit import OOD, TEST, TRAIN, Kit, arguments

from lightning_ood.detectors.ash import ASH
from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.calibration import split
from lightning_ood.detectors.combine.fusion import Fisher, Joint, RobustZ, Rule
from lightning_ood.detectors.dice import DICE
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.entropy import Entropy
from lightning_ood.detectors.fdbd import FDBD
from lightning_ood.detectors.feature_norm import FeatureNorm
from lightning_ood.detectors.gen import GEN
from lightning_ood.detectors.gradnorm import GradNorm
from lightning_ood.detectors.knn import KNN
from lightning_ood.detectors.line import LINe
from lightning_ood.detectors.mds import MDS
from lightning_ood.detectors.msp import MSP
from lightning_ood.detectors.nac import NAC
from lightning_ood.detectors.nap import NAP
from lightning_ood.detectors.nci import NCI
from lightning_ood.detectors.nnguide import NNGuide
from lightning_ood.detectors.pseudo_ood import criterion
from lightning_ood.detectors.rmds import RMDS
from lightning_ood.detectors.she import SHE
from lightning_ood.detectors.vim import ViM
from lightning_ood.detectors.vra import VRA
from lightning_ood.features import Features

STAND_INS = ("jigsaw 2x2", "jigsaw 3x3", "jigsaw 4x4", "rotation", "negative", "noise 0.5", "blur", "crop 0.6")
HELD_OUT = 0.2  # of the training images: scored against the stand-ins, seen by no member
RULES: dict[str, Rule] = {
    "sum of z": RobustZ(),
    "sum of z, at most 1 each": RobustZ(ceiling=1.0),
    "sum of z, at most 0 each": RobustZ(ceiling=0.0),
    "Fisher": Fisher(),
    "joint": Joint(),
}
TRIO = ("nap", "energy", "knn")
SETS = (("msp",), ("energy",), ("knn",), ("nap",), TRIO, ("nap", "energy"), ("nap", "knn"), ("energy", "knn"))


def members() -> dict[str, Detector]:
    return {
        "nap": NAP(),
        "msp": MSP(),
        "energy": Energy(),
        "entropy": Entropy(),
        "gen": GEN(),
        "knn": KNN(50),
        "vim": ViM(),
        "nci": NCI(),
        "fdbd": FDBD(),
        "rmds": RMDS(),
        "mds": MDS(),
        "she": SHE(),
        "nac": NAC(),
        "dice": DICE(90),
        "ash": ASH("s", 90),
        "vra": VRA(),
        "line": LINe(),
        "nnguide": NNGuide(),
        "gradnorm": GradNorm(),
        "feature_norm": FeatureNorm(block="last"),
    }


class Scores:
    """Scores of every member on a network's sets, once fitted on a part of the training images and once on all."""

    def __init__(self, kit: Kit) -> None:
        info, train = kit.info(), kit.features(TRAIN)
        fitted_on, scored_on = split(train, HELD_OUT, 0)
        pseudo = {"known": fitted_on, "id": scored_on, **{name: kit.view(name) for name in STAND_INS}}
        real = {"known": train, "id": kit.features(TEST), **{name: kit.features(name) for name in OOD}}
        self.pseudo: dict[str, dict[str, Tensor]] = {name: {} for name in pseudo}
        self.real: dict[str, dict[str, Tensor]] = {name: {} for name in real}
        for name, member in members().items():
            for table, sets in ((self.pseudo, pseudo), (self.real, real)):
                member.setup(info)
                member.reset()
                for start in range(0, len(sets["known"]) if member.fits else 0, 500):
                    member.update(sets["known"].select(slice(start, start + 500)))
                fitted = member.compute() if member.fits else {}
                for which, features in sets.items():
                    table[which][name] = scored(member, fitted, features)

    def values(self, names: tuple[str, ...], rule: Rule, real: bool, which: str = "auroc") -> list[float]:
        """AUROC or FPR95 in percent against each set."""
        table = self.real if real else self.pseudo
        columns = {key: torch.stack([scores[name] for name in names], dim=1) for key, scores in table.items()}
        known = columns.pop("known")
        joined = {key: rule(scores, known) for key, scores in columns.items()}
        id_scores = joined.pop("id")
        return [100 * criterion(id_scores, other, which).item() for other in joined.values()]  # type: ignore[arg-type]


def scored(member: Detector, fitted: dict[str, Tensor], features: Features) -> Tensor:
    parts = [features.select(slice(start, start + 250)) for start in range(0, len(features), 250)]
    return torch.cat([member.score(part, fitted).double() for part in parts])


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def row(all_scores: dict[str, Scores], names: tuple[str, ...], rule: str) -> str:
    cells = [f"{mean([mean(s.values(names, RULES[rule], False)) for s in all_scores.values()]):.2f}"]
    for scores in all_scores.values():
        pairs = zip(*(scores.values(names, RULES[rule], True, which) for which in ("fpr95", "auroc")), strict=True)
        cells += [f"{fpr:.1f}/{auroc:.1f}" for fpr, auroc in pairs]
    return f"| {' + '.join(names)} | {rule} | " + " | ".join(cells) + " |"


def header(networks: list[str]) -> str:
    columns = [f"{network}: {name}" for network in networks for name in OOD]
    return f"| members | rule | pseudo-OOD AUROC | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 3)}"


if __name__ == "__main__":
    networks, root, cache = arguments(__doc__)
    found = {network: Scores(Kit(network, root, cache)) for network in networks}
    print(f"FPR95/AUROC in percent. Pseudo-OOD: mean AUROC over {', '.join(STAND_INS)} and over the networks.\n")
    print("## The published trio, its parts and the rules\n")
    print(header(networks))
    for names in SETS:
        for rule in RULES if len(names) > 1 else ("sum of z",):
            print(row(found, names, rule), flush=True)
    print("\n## Of all sets of up to three members and, with NAP, four: the ten that pseudo-OOD ranks first\n")
    print(header(networks))
    pool = list(members())
    tried = [names for size in (1, 2, 3) for names in itertools.combinations(pool, size)]
    tried += [("nap", *names) for names in itertools.combinations(pool[1:], 3)]
    worth = {n: mean([mean(s.values(n, RULES["sum of z"], False)) for s in found.values()]) for n in tried}
    ranked = sorted(tried, key=lambda names: -worth[names])
    for names in ranked[:10]:
        print(row(found, names, "sum of z"), flush=True)
    print(f"\nOf {len(tried)} sets the trio {' + '.join(TRIO)} is number {ranked.index(TRIO) + 1}.")
