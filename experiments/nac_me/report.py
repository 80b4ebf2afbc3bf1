"""Makes the table and the picture from results/checkpoints.csv: ``python experiments/nac_me/report.py``."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from lightning_ood.report.markdown import markdown_table

PUBLISHED = "nac_me alpha=0.1 O=500"
SHIFTS = ("rotation", "blur", "noise", "contrast")
LATE = 6  # the first epoch of the second correlation: by then the network knows its training images


def criteria_of(checkpoints: pd.DataFrame) -> list[str]:
    """What checkpoints may be chosen by: names of columns."""
    return ["val_accuracy", "train_accuracy", *checkpoints.filter(like="nac_me").columns]


def under_shift(checkpoints: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy of each shift over its strengths, and of all (``shift``)."""
    table = pd.DataFrame({s: checkpoints.filter(like=f"accuracy {s}").mean(axis=1) for s in SHIFTS})
    return table.assign(shift=table.mean(axis=1))


def correlations(checkpoints: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation in percent, ties averaged: a row per criterion, seed and shift."""
    accuracy = under_shift(checkpoints)
    late = checkpoints["epoch"] >= LATE
    columns = {**{shift: accuracy[shift] for shift in accuracy}, "late": accuracy["shift"].where(late)}
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a constant criterion has no rank correlation: NaN
        for seed, at in checkpoints.groupby("seed").groups.items():
            for criterion in criteria_of(checkpoints):
                for shift, values in columns.items():
                    known = values[at].dropna()
                    found = spearmanr(checkpoints.loc[known.index, criterion], known).statistic
                    rows.append({"criterion": criterion, "seed": seed, "shift": shift, "rc": 100 * found})
    return pd.DataFrame(rows)


def picks(checkpoints: pd.DataFrame) -> pd.DataFrame:
    """Accuracy under shift of what each criterion picks, per criterion and seed; of tied checkpoints, the mean."""
    table = checkpoints.assign(shift=under_shift(checkpoints)["shift"])
    rows = []
    for seed, run in table.groupby("seed"):
        for criterion in criteria_of(checkpoints):
            best = run[run[criterion] == run[criterion].max()]
            epochs = best["epoch"].tolist()
            epoch = epochs[0] if len(epochs) == 1 else f"{len(epochs)} tied"
            rows.append((criterion, seed, best["shift"].mean(), epoch))
        rows.append(("last", seed, run["shift"].iloc[-1], run["epoch"].iloc[-1]))
        rows.append(("mean", seed, run["shift"].mean(), "all"))
        rows.append(("oracle", seed, run["shift"].max(), run.loc[run["shift"].idxmax(), "epoch"]))
    return pd.DataFrame(rows, columns=["criterion", "seed", "accuracy", "epoch"])


def write(checkpoints: pd.DataFrame, folder: Path) -> str:
    """Writes table.md and correlation.png; returns the table."""
    rc, chosen = correlations(checkpoints), picks(checkpoints)
    text = table(rc, chosen)
    (folder / "table.md").write_text(text)
    draw(checkpoints, rc, folder / "correlation.png")
    return text


def table(rc: pd.DataFrame, chosen: pd.DataFrame) -> str:
    """Markdown: a row per criterion, means over seeds."""
    shifts = list(rc["shift"].drop_duplicates())
    names = {"shift": "all shifts", "late": f"all shifts, epochs {LATE}+"}
    heads = ["criterion", *(f"RC {names.get(s, s)}" for s in shifts), "accuracy of its pick", "epochs picked"]
    rows = []
    for criterion in chosen["criterion"].drop_duplicates():
        of = rc[rc["criterion"] == criterion].groupby("shift")["rc"]
        cells = [_mean_and_deviation(of.get_group(s)) if s in of.groups else "" for s in shifts]
        pick = chosen[chosen["criterion"] == criterion]
        epochs = ", ".join(map(str, pick["epoch"]))
        rows.append([label(criterion), *cells, _mean_and_deviation(pick["accuracy"]), epochs])
    return markdown_table(heads, rows) + "\n"


def _mean_and_deviation(values: pd.Series) -> str:
    known = values.dropna()
    if known.empty:
        return "constant"
    text = f"{known.mean():.1f} ± {known.std(ddof=1):.1f}" if len(known) > 1 else f"{known.mean():.1f}"
    return text + (f" ({len(known)} of {len(values)})" if len(known) < len(values) else "")


def label(criterion: str) -> str:
    """For people."""
    names = {
        "val_accuracy": "validation accuracy",
        "train_accuracy": "training accuracy",
        "last": "last epoch",
        "mean": "mean of all epochs",
    }
    text = names.get(criterion, criterion.replace("nac_me", "NAC-ME"))
    return text + (" (published)" if criterion == PUBLISHED else "")


def draw(checkpoints: pd.DataFrame, rc: pd.DataFrame, path: Path) -> None:
    """Left: rank correlation over all shifts, a dot per seed. Right: one training, epoch by epoch."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    whole = rc[rc["shift"] == "shift"]
    criteria = list(whole["criterion"].drop_duplicates())
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    left.axvline(0, color="0.7", lw=1)
    for y, criterion in enumerate(reversed(criteria)):
        values = whole[whole["criterion"] == criterion]["rc"].dropna()
        colour = "tab:blue" if "nac_me" in criterion else "tab:orange"
        left.plot(values, np.full(len(values), y), "o", color=colour, alpha=0.5, ms=5)
        if len(values):
            left.plot(values.mean(), y, "|", color="black", ms=16, mew=2)
        else:
            left.text(0, y, " the same at every epoch", va="center", color="0.4")
    left.set_yticks(range(len(criteria)), [label(c) for c in reversed(criteria)])
    left.set_xlim(-105, 105)
    left.set_xlabel("Spearman correlation with accuracy under shift, % (dot: seed, bar: mean)")
    one = checkpoints[checkpoints["seed"] == checkpoints["seed"].iloc[0]]
    right.plot(one["epoch"], under_shift(one)["shift"], "k-", lw=2, label="accuracy under shift")
    right.plot(one["epoch"], one["val_accuracy"], "-", color="tab:orange", label="validation accuracy")
    right.set(xlabel=f"epoch (seed {one['seed'].iloc[0]:g})", ylabel="accuracy, %")
    right.xaxis.get_major_locator().set_params(integer=True)
    twin = right.twinx()
    for alpha, style in (("1", ":"), ("10", "--"), ("100", "-")):
        values = one[f"nac_me alpha={alpha} O=50"]
        twin.plot(one["epoch"], values, style, color="tab:blue", label=f"NAC-ME alpha={alpha} O=50")
    twin.set_ylabel("NAC-ME", color="tab:blue")
    handles = [h for axes in (right, twin) for h in axes.get_legend_handles_labels()[0]]
    right.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncol=2, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    results = Path(__file__).parent / "results"
    print(write(pd.read_csv(results / "checkpoints.csv"), results))
