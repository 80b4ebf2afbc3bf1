"""Prints a run's metrics.csv as a Markdown table, FPR95 / AUROC; published values beside those of the DenseNet.

python experiments/table.py runs/cifar10_densenet [detector …]
"""

import sys
from pathlib import Path

import pandas as pd

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


def table(run: Path, detectors: list[str], published: bool) -> str:
    """Markdown."""
    metrics = pd.read_csv(run / "metrics.csv").set_index(["detector", "dataset"])
    names = detectors or list(dict.fromkeys(metrics.index.get_level_values(0)))
    sets = [name for name in dict.fromkeys(metrics.index.get_level_values(1)) if name != "mean"]
    extra = ["published: Textures", "Places365"] if published else []
    lines = ["| " + " | ".join(["detector", *sets, *extra]) + " |", "| --- |" + " ---: |" * (len(sets) + len(extra))]
    best = {
        s: (metrics.xs(s, level=1)["fpr95"].round(1).min(), metrics.xs(s, level=1)["auroc"].round(1).max())
        for s in sets
    }
    for name in names:
        cells = []
        for dataset in sets:
            row = metrics.loc[(name, dataset)]
            fpr95, auroc = f"{row['fpr95']:.1f}", f"{row['auroc']:.1f}"
            fpr95 = f"**{fpr95}**" if round(row["fpr95"], 1) == best[dataset][0] else fpr95
            auroc = f"**{auroc}**" if round(row["auroc"], 1) == best[dataset][1] else auroc
            cells.append(f"{fpr95} / {auroc}")
        if published:
            cells += [f"{a:.1f} / {b:.1f}" for a, b in PUBLISHED.get(name, ())] or ["", ""]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(table(folder, sys.argv[2:], published="densenet" in folder.name))
