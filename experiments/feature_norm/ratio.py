"""NormRatio of each block beside the AUROC of its norm: ``python experiments/feature_norm/ratio.py``, after the sweeps.

Reads the tables in results/ and the ratios in the checkpoints of runs/sweeps; writes ratio.md and ratio.png there.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lightning_ood.engine.run_dir import read_checkpoint
from lightning_ood.report.drawing import COLOURS
from lightning_ood.report.markdown import markdown_table
from lightning_ood.report.table import MEAN

RESULTS = Path(__file__).parent / "results"
NETWORKS = {"sweep": "ResNet-20", "digits": "digits, CNN", "digits_vit": "digits, Transformer"}
BLOCK = "scoring.detectors.feature_norm.init_args.block"


def ratios(stem: str) -> list[float]:
    """Of every block, from the run that chose among them."""
    (path,) = Path("runs/sweeps").glob(f"feature_norm-{stem}/*/checkpoints/last.ckpt")
    fitted = read_checkpoint(path)["callbacks"]["ScoringCallback"]["fitted"]
    (found,) = (tensors["ratios"].tolist() for name, tensors in fitted.items() if name.startswith("chosen-"))
    return found


def blocks(stem: str) -> pd.DataFrame:
    """A row per block: its ratio, then the AUROC of each set."""
    table = pd.read_csv(RESULTS / f"{stem}.csv").query("detector == 'feature_norm'")
    wide = table[table["dataset"] != MEAN].pivot_table(index=BLOCK, columns="dataset", values="auroc", sort=False)
    wide.insert(0, "NormRatio", ratios(stem))
    return wide


def draw(found: dict[str, pd.DataFrame], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(found), figsize=(4.2 * len(found), 3.6), layout="constrained", squeeze=False)
    for axes, (name, table) in zip(panels[0], found.items(), strict=True):
        sets = [column for column in table if column != "NormRatio"]
        for column, colour, marker in zip(sets, COLOURS, "os^", strict=False):
            axes.plot(range(len(table)), table[column], marker=marker, ms=4, color=colour, label=column)
        axes.set_xticks(range(len(table)), table.index, rotation=60, ha="right", fontsize=8)
        axes.set(title=name, ylim=(0, 102), ylabel="AUROC, %" if axes is panels[0, 0] else "")
        twin = axes.twinx()
        twin.plot(range(len(table)), table["NormRatio"], "k--", lw=1, label="NormRatio")
        chosen = int(table["NormRatio"].to_numpy().argmax())
        twin.plot(chosen, table["NormRatio"].iloc[chosen], "k*", ms=11, label="chosen")
        twin.set_ylabel("NormRatio", fontsize=8)
        handles = [each for a in (axes, twin) for each in a.get_legend_handles_labels()[0]]
        axes.legend(
            handles=handles, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.34), ncols=2, frameon=False
        )
    figure.savefig(path, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    found = {name: blocks(stem) for stem, name in NETWORKS.items()}
    lines = []
    for name, table in found.items():
        best = table.drop(columns="NormRatio").mean(axis=1).idxmax()
        chosen = table["NormRatio"].idxmax()
        lines += [f"**{name}**: chosen {chosen}, best mean AUROC {best}", ""]
        rows = []
        for block, row in table.iterrows():
            cells = [f"{row['NormRatio']:.3f}", *(f"{value:.1f}" for value in row.iloc[1:])]
            rows.append([f"{block}{' *' if block == chosen else ''}", *cells])
        lines += [markdown_table(["block", *table.columns], rows), ""]
    (RESULTS / "ratio.md").write_text("\n".join(lines))
    draw(found, RESULTS / "ratio.png")
    print("\n".join(lines))
