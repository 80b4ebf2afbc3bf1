"""Which weight a search on pseudo-OOD finds for NAP's products, beside the weights that real OOD images would choose.

python experiments/nap_weight/run.py densenet resnet20 [--root data] [--cache runs/kit] \
    > experiments/nap_weight/results/table.md
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from kit import OOD, TEST, TRAIN, VIEWS, Kit, arguments

from lightning_ood.detectors.ash import ASH
from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.calibration import split
from lightning_ood.detectors.dice import DICE
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.knn import KNN
from lightning_ood.detectors.msp import MSP
from lightning_ood.detectors.nap import NAP
from lightning_ood.detectors.pseudo_ood import criterion, middle_of_best
from lightning_ood.detectors.react import ReAct
from lightning_ood.features import Features

CLIP = {"densenet": ReAct(threshold=1.0), "resnet20": ReAct(percentile=90)}  # what serves each network
WEIGHTS = [i / 20 for i in range(21)]
HELD_OUT = 0.2  # of the training images: scored, and not seen by a base that is fitted


def bases(network: str) -> dict[str, Detector]:
    return {"M": MSP(), "E": Energy(), "R": CLIP[network], "D": DICE(90), "A": ASH("s", 90), "K": KNN(50)}


def curve(known: Tensor, unknown: Tensor) -> Tensor:
    """AUROC in percent of each weight, from logarithms ``[n, 2]`` of NAP and of the base."""
    mixed = [[w * x[:, 1] + (1 - w) * x[:, 0] for x in (known, unknown)] for w in WEIGHTS]
    return 100 * torch.stack([criterion(a, b, "auroc") for a, b in mixed])


def logs(detectors: tuple[Detector, Detector], fitted: dict[str, Tensor], features: Features) -> Tensor:
    """``[n, 2]``."""
    rows = []
    for start in range(0, len(features), 200):
        some = features.select(slice(start, start + 200))
        both = (detectors[0].log_score(some, {}), detectors[1].log_score(some, fitted))
        rows.append(torch.stack(both, dim=1).double())
    return torch.cat(rows)


def report(kit: Kit) -> None:
    info, train = kit.info(), kit.features(TRAIN)
    sets = {name: kit.features(name) for name in (TEST, *OOD)}
    views = {name: kit.view(name) for name in VIEWS}
    print(f"\n## {kit.network}\n")
    print("| base | stand-in | w | AUROC against it | " + " | ".join(OOD) + " | mean |")
    print("|---|---|---|---|" + "---|" * (len(OOD) + 1))
    prior = NAP()
    prior.setup(info)
    for letter, base in bases(kit.network).items():
        base.setup(info)
        fitted_on, scored_on = split(train, HELD_OUT, 0) if base.fits else (train, train)
        if base.fits:
            base.update(fitted_on)
        fitted = base.compute()
        pair = (prior, base)
        known, test = logs(pair, fitted, scored_on), logs(pair, fitted, sets[TEST])
        real = {name: curve(test, logs(pair, fitted, sets[name])) for name in OOD}
        mean = torch.stack(list(real.values())).mean(0)

        def line(name: str, w: int, found: str, letter=letter, real=real, mean=mean) -> None:
            cells = [f"{c[w]:.1f}" for c in (*real.values(), mean)]
            print(f"| NAP-{letter} | {name} | {WEIGHTS[w]:.2f} | {found} | " + " | ".join(cells) + " |", flush=True)

        for name, images in views.items():
            against = curve(known, logs(pair, fitted, images))
            best = middle_of_best(against)
            line(name, best, f"{against[best]:.1f}")
        line("*no search*", WEIGHTS.index(0.5), "")
        line("*base alone*", 20, "")
        for name, found in real.items():
            line(f"*best for {name}*", middle_of_best(found), "")
        line("*best for the mean*", middle_of_best(mean), "")


if __name__ == "__main__":
    networks, root, cache = arguments(__doc__)
    print("AUROC in percent; the columns on the right are real OOD images at the weight in the third column.")
    for network in networks:
        report(Kit(network, root, cache))
