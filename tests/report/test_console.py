import io
import re

import pytest
from rich.console import Console

from lightning_ood.report import print_table, summarise


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
    for row in metrics.itertuples():
        if not (row.dataset == "mean" and row.group == "near"):  # one set: its mean would say the same again
            assert re.search(rf"{row.auroc:.1f}[ *]/ *{row.fpr95:.1f}", text)


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
    assert len(re.findall(r"\d\.\d[ *]/", text)) == 30 * (8 + 2)  # every cell is whole
    for name in {*metrics["detector"], *metrics["dataset"]}:
        # A long name is folded; its pieces stand in the same place of the lines below each other.
        assert name in text or all(piece in text for piece in (name[:10], name[-3:]))


def test_names_are_not_markup(scores):
    text = printed(summarise(scores.rename(columns={"nap": "[red]nap[/red]"})), 80, accuracy=None)
    assert "[red]nap[/red]" in text
    assert "accuracy unknown" in text


def test_a_cost_column_where_a_detector_costs_more_than_the_shared_forward(scores):
    metrics = summarise(scores)
    costs = {"msp": {"fit": 0, "test": 0}, "energy": {"fit": 0, "test": 1}, "nap": {"fit": 2, "test": 0}}
    console = Console(width=100, file=io.StringIO())
    print_table(metrics, 94.0, console, costs)
    lines = console.file.getvalue().splitlines()
    ends = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if line.startswith(("msp", "energy", "nap"))}
    assert "1 test" in ends["energy"] and "2 fit" in ends["nap"] and "fit" not in ends["msp"]
    free = Console(width=100, file=io.StringIO())
    print_table(metrics, 94.0, free, {"msp": {"fit": 0, "test": 0}})
    assert "passes" in console.file.getvalue() and "passes" not in free.file.getvalue()
