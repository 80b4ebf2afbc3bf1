import io
import re

import pandas as pd
import pytest
from rich.console import Console

from lightning_ood.report import print_table, summarise
from tests.helpers.scores import make_scores


def printed(metrics, width, accuracy=94.0, colour=False):
    console = Console(
        width=width, file=io.StringIO(), force_terminal=colour, color_system="standard" if colour else None
    )
    print_table(metrics, accuracy, console)
    return console.file.getvalue()


def test_one_table_where_it_fits(scores):
    metrics = summarise(scores)
    text = printed(metrics, 80)
    assert text.count("detector ") == 1
    assert all(name in text for name in ("eights", "photos", "textures", "mean", "accuracy 94.0 %", "60 images"))
    assert "ID is the positive class" in " ".join(text.split())
    assert "far mean" in text and "near mean" not in text
    for row in metrics.itertuples():
        if not (row.dataset == "mean" and row.group == "near"):  # one set: its mean would say the same again
            assert re.search(rf"{row.auroc:.1f}[ *]/ *{row.fpr95:.1f}", text)


def sets_of(metrics):
    return metrics[metrics["dataset"] != "mean"]


def test_rows_are_sorted_by_the_mean_over_all_sets(scores):
    metrics = summarise(scores.assign(nap=-scores["nap"], msp=scores["msp"] * (scores["role"] == "id")))
    means = sets_of(metrics).groupby("detector")["auroc"].mean()
    lines = [line.split() for line in printed(metrics, 80).splitlines() if line.startswith(("msp ", "energy ", "nap "))]
    assert [line[0] for line in lines] == list(means.sort_values(ascending=False).index)
    assert [float(line[1].rstrip("*/")) for line in lines] == sorted(means.round(1), reverse=True)


def test_36_detectors_and_six_sets_fit_80_columns():
    sets = [("cifar100", "near"), ("tin", "near"), *((name, "far") for name in ("mnist", "svhn", "textures", "places"))]
    detectors = [f"detector_{k}" for k in range(34)] + ["temperature_scaling", "nap"]
    metrics = summarise(make_scores(detectors, sets))
    console = Console(width=80, file=io.StringIO())
    print_table(metrics, 94.0, console, doubts={"temperature_scaling": ["it is doubtful"]})
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    tables = "\n".join(lines).partition("In-distribution")[0]
    for title, metric in (("AUROC", "auroc"), ("FPR95", "fpr95")):
        start = next(i for i, line in enumerate(lines) if line.strip() == title)
        rows = [line for line in lines[start:] if line.split()[:1] and line.split()[0] in detectors][:36]
        assert {line.split()[0] for line in rows} == set(detectors)
        for line in rows:
            name = line.split()[0]
            of = sets_of(metrics)[sets_of(metrics)["detector"] == name]
            numbers = re.findall(r"\d+\.\d", line)
            assert len(numbers) == 6 + 3
            assert numbers[0] == f"{of[metric].mean():.1f}" and numbers[2] == f"{of[metric].iloc[0]:.1f}"
            assert ("!" in line) == (name == "temperature_scaling")
    assert all(name in tables for name in dict(sets)) and "near mean" in tables and "far mean" in tables


def test_a_heading_ends_above_its_column():
    metrics = summarise(make_scores(["msp"], [("a", "near"), ("a_long_name_of_a_set", "near"), ("b", "far")]))
    for width in (80, 44):
        lines = printed(metrics, width).splitlines()
        row = next(line for line in lines if line.startswith("msp"))
        ends = [match.end() for match in re.finditer(r"\d+\.\d(?=[ *]*(?:  |$))" if width == 80 else r"\d+\.\d", row)]
        heads = lines[: lines.index(row)]
        for name, end in zip(["mean", "near mean", "a", "a_long_name_of_a_set", "b"], ends, strict=True):
            assert any(line[: end + 1].rstrip()[-len(name) :] == name for line in heads), (width, name)


def test_best_is_marked_in_plain_text_and_bold(scores):
    metrics = summarise(scores)
    photos = metrics[metrics["dataset"] == "photos"]
    assert f"{photos['auroc'].max():.1f}*" in printed(metrics, 80)
    assert f"{photos['fpr95'].min():.1f}*" in printed(metrics, 80)
    assert f"\x1b[1m {photos['auroc'].max():.1f}*" in printed(metrics, 80, colour=True)
    assert "\x1b" not in printed(metrics, 80)


@pytest.mark.parametrize("width", [80, 50, 200])
def test_nothing_is_cut(wide, width):
    metrics = summarise(wide)
    text = printed(metrics, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    table = text.partition("In-distribution")[0]
    assert len(re.findall(r"\d\.\d", table)) == 2 * 30 * (8 + 3)  # every cell is whole
    for name in {*metrics["detector"], *metrics["dataset"]}:
        # A long name is folded; its pieces stand in the same place of the lines below each other.
        assert name in text or all(piece in text for piece in (name[:30], name[30:]))


def test_names_are_not_markup(scores):
    text = printed(summarise(scores.rename(columns={"nap": "[red]nap[/red]"})), 80, accuracy=None)
    assert "[red]nap[/red]" in text
    assert "accuracy unknown" in text


def test_what_detectors_cost_beyond_the_shared_forward(scores):
    metrics = summarise(scores)
    costs = {"msp": {"fit": 0, "test": 0}, "energy": {"fit": 0, "test": 1}, "nap": {"fit": 2, "test": 0}}
    console = Console(width=100, file=io.StringIO())
    print_table(metrics, 94.0, console, costs)
    assert "Extra passes per image: 1 test: energy; 2 fit: nap." in console.file.getvalue()
    free = Console(width=100, file=io.StringIO())
    print_table(metrics, 94.0, free, {"msp": {"fit": 0, "test": 0}})
    assert "passes" not in free.file.getvalue()


def test_the_full_spectrum_has_a_table_of_its_own(scores):
    shifted = scores[scores["role"] == "id"].assign(role="csid", group="csid", dataset="digits_c")
    text = printed(summarise(pd.concat([scores, shifted], ignore_index=True)), 80)
    assert text.count("AUROC / FPR95 (full spectrum)") == 1 and text.count("photos") == 3
    assert "fs/photos" not in text
