"""Prints a run's metrics.csv as a Markdown table, FPR95 / AUROC; published values beside those of the DenseNet.

PYTHONPATH=. python experiments/table.py runs/cifar10_densenet [detector …]
PYTHONPATH=. python experiments/table.py --doubts runs/imagenet_lite0      # ! marks doubtful rows
"""

import sys
from functools import partial
from pathlib import Path

import pandas as pd

from lightning_ood.report.doubts import read_doubts
from lightning_ood.report.markdown import markdown_table
from lightning_ood.report.table import MEAN, is_best

# FPR95 / AUROC of the DICE-style CIFAR suite for the same DenseNet checkpoint: Textures, Places365. MSP, ODIN,
# Mahalanobis, Energy, ReAct and DICE: table of the DICE paper (ECCV 2022); ASH: table of the ASH paper (ICLR 2023).
PUBLISHED = {
    "msp": ((64.15, 88.15), (63.02, 88.57)),
    "odin": ((57.50, 82.38), (52.85, 88.55)),
    "mds": ((21.51, 92.15), (85.14, 63.15)),
    "energy": ((56.12, 86.43), (39.40, 91.64)),
    "react": ((43.58, 92.47), (43.31, 91.03)),
    "dice": ((41.90, 88.18), (48.59, 89.13)),
    "ash_p": ((50.85, 88.29), (40.46, 91.76)),
    "ash_b": ((35.73, 92.88), (48.47, 89.93)),
    "ash_s": ((24.34, 95.09), (48.45, 88.34)),
}


def table(run: Path, detectors: list[str], published: bool, doubts: bool = False) -> str:
    """Formats the metrics of a run as a Markdown table."""
    metrics = pd.read_csv(run / "metrics.csv").set_index(["detector", "dataset"])
    names = detectors or list(dict.fromkeys(metrics.index.get_level_values(0)))
    sets = [name for name in dict.fromkeys(metrics.index.get_level_values(1)) if name != MEAN]
    extra = ["published: Textures", "Places365"] if published else []
    by_set = metrics.groupby(level=1)
    best = {m: by_set[m].transform(partial(is_best, metric=m)) for m in ("fpr95", "auroc")}
    marked = set(read_doubts(run)) if doubts else set()
    rows = []
    for name in names:
        cells = []
        for dataset in sets:
            at = (name, dataset)
            texts = [(f"{metrics.loc[at, m]:.1f}", marks[at]) for m, marks in best.items()]
            cells.append(" / ".join(f"**{text}**" if bold else text for text, bold in texts))
        if published:
            cells += [f"{a:.1f} / {b:.1f}" for a, b in PUBLISHED.get(name, ())] or ["", ""]
        rows.append([f"{name} !" if name in marked else name, *cells])
    return markdown_table(["detector", *sets, *extra], rows)


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--doubts"]
    folder = Path(given[0])
    print(table(folder, given[1:], published="densenet" in folder.name, doubts="--doubts" in sys.argv))
