"""``compare`` as a user calls it, on runs that are nothing but their scores."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lightning_ood.commands.cli import main
from lightning_ood.report import summarise, write_scores
from tests.helpers.scores import make_scores

SETS = [("eights", "near"), ("photos", "far"), ("textures", "far")]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """a and b on the same images, in another order, and two more seeds of b; b's energy is better, its msp the same."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    scores = make_scores(["msp", "energy", "nap_x"], SETS, n_id=200, n_ood=150)
    write_scores(scores, "runs/a")
    for seed in range(3):
        noise = rng.normal(0, 0.3, len(scores))
        better = scores.assign(energy=scores["energy"] + noise + (scores["role"] == "id"), gen=noise)
        write_scores(better.sample(frac=1, random_state=seed), f"runs/b{seed}")
    return scores


def differences(folder="out"):
    return (
        pd.read_csv(f"{folder}/differences.csv")
        .set_index(["run", "detector", "dataset", "group", "metric"])
        .sort_index()
    )


def test_two_runs(runs, capsys):
    main(["compare", "runs/a", "runs/b0", "--out", "out"])
    said = capsys.readouterr().out
    rows = differences()
    assert len(rows) == 3 * (3 + 1) * 2  # not gen, which a lacks; and the mean of the group with two sets
    b = summarise(pd.read_parquet("runs/b0/scores.parquet")).set_index(["detector", "dataset", "group"])
    a = summarise(runs).set_index(["detector", "dataset", "group"])
    for (_, *where, metric), row in rows.iterrows():
        expected = b.loc[tuple(where), metric] - a.loc[tuple(where), metric]
        assert row["difference"] == pytest.approx(expected, abs=1e-6)
        assert row["low"] <= row["difference"] <= row["high"]
    assert (rows.loc[("b0", "msp"), "p_value"] == 1).all()
    assert (rows.loc[("b0", "energy"), "verdict"] == "better").all()
    assert "| b0  | energy   | a            | far mean |" in said
    assert "a mean of one set" not in said
    assert "not corrected for the number of comparisons" in said
    table = Path("out/table.md").read_text()
    assert table in said
    assert table.partition("\n\n")[0].count("\n") == 2 + 3 + 4 - 1
    assert "200 ID images" in table and "photos (far) 150" in table and "Accuracy on ID: a 90.0 %, b0 90.0 %" in table
    tex = Path("out/table.tex").read_text()
    assert r"nap\_x" in tex
    assert r"\textbf{" in tex
    assert {line.count("&") for line in tex.splitlines() if "FPR95" not in line and line.endswith(r"\\")} == {
        1 + 4,
        1 + 2 * 4,
    }
    assert set(rows["test"]) == {"DeLong", "delta method"}


def test_detectors_of_one_run_and_the_seed(runs, capsys):
    main(["compare", "runs/a", "--baseline", "msp", "--bootstrap", "--draws", "500", "--out", "one"])
    main(["compare", "runs/a", "--baseline", "msp", "--bootstrap", "--draws", "500", "--out", "two"])
    one, two = differences("one"), differences("two")
    pd.testing.assert_frame_equal(one, two)
    assert set(one["baseline"]) == {"msp"}
    assert set(one.index.get_level_values("detector")) == {"energy", "nap_x"}
    assert set(one["test"]) == {"paired bootstrap, 500 draws"}
    assert (one["verdict"] == "better").any()


def test_runs_without_a_common_detector_say_so(runs, capsys):
    write_scores(runs.drop(columns=["energy", "nap_x"]), "runs/one")
    write_scores(runs.drop(columns=["msp"]), "runs/other")
    main(["compare", "runs/one", "runs/other"])
    assert "share no detector. --baseline RUN/DETECTOR" in capsys.readouterr().out
    main(["compare", "runs/one", "runs/other", "--baseline", "one/msp"])
    assert "Δ" in capsys.readouterr().out


def test_mean_over_seeds(runs, capsys):
    main(["compare", "base=runs/a", "ours=runs/b*", "--detectors", "energy", "--sets", "photos", "--out", "out"])
    values = pd.read_csv("out/table.csv").set_index(["run", "dataset"])
    tables = [summarise(pd.read_parquet(f"runs/b{seed}/scores.parquet")) for seed in range(3)]
    auroc = [t[(t["detector"] == "energy") & (t["dataset"] == "photos")]["auroc"].item() for t in tables]
    row = values.loc[("ours", "photos")]
    assert (row["auroc"], row["auroc_std"], row["repetitions"]) == pytest.approx(
        (np.mean(auroc), np.std(auroc, ddof=1), 3)
    )
    assert f"{np.mean(auroc):.1f} ± {np.std(auroc, ddof=1):.1f}" in capsys.readouterr().out
    found = differences().loc[("ours", "energy", "photos", "far", "auroc")]
    assert found["difference"] == pytest.approx(row["auroc"] - values.loc[("base", "photos"), "auroc"], abs=1e-6)
    assert found["verdict"] == "better"


def cells_of(line):
    return [cell.strip() for cell in line.strip("| ").split("|")]


@pytest.mark.parametrize("form", ["pm", "brackets"])
def test_a_table_with_intervals(runs, form, capsys):
    main(["compare", "runs/a", "--out", "out", "--intervals", form, "--label", "tab:mine"])
    metrics = summarise(runs).set_index(["detector", "dataset"])
    lines = [line for line in Path("out/table.md").read_text().splitlines() if line.startswith("| ")]
    heads = cells_of(lines[0])
    at = heads.index("photos (FPR95 ↓ / AUROC ↑)")
    cells = {row[0]: row[at].split(" / ")[1] for row in map(cells_of, lines[2:])}
    row = metrics.round(1).loc[("energy", "photos")]
    low, high = row["auroc_low"], row["auroc_high"]
    side = max(high - row["auroc"], row["auroc"] - low)
    text = f"{row['auroc']:.1f} ± {side:.1f}" if form == "pm" else f"{row['auroc']:.1f} [{low:.1f}, {high:.1f}]"
    assert text in cells["energy"]
    photos = metrics.xs("photos", level="dataset").round(1)
    best = photos["auroc"].idxmax()
    for name, cell in cells.items():
        value = photos.loc[name, "auroc"]
        assert cell.startswith("**") == (value == photos.loc[best, "auroc"])
        is_tied = photos.loc[best, "auroc_low"] <= value < photos.loc[best, "auroc"]
        assert cell.endswith("†") == is_tied
    tex = Path("out/table.tex").read_text()
    for part in (r"\begin{table}", r"\caption{", r"\label{tab:mine}", r"\toprule", r"\end{table}"):
        assert tex.count(part) == 1
    assert "†: inside the interval of the best" in capsys.readouterr().out


def test_siunitx_cells_are_numbers(runs, capsys):
    main(["compare", "runs/a", "--out", "out", "--siunitx", "--intervals", "pm"])
    body = Path("out/table.tex").read_text().partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    cells = [cell.strip() for line in body.strip().splitlines() for cell in line.removesuffix(r"\\").split("&")[1:]]
    assert len(cells) == 3 * 2 * 4
    number = r"(\\bfseries )?\d+\.\d \+- \d+\.\d( \{\$\^\\dagger\$\})?"
    assert all(re.fullmatch(number, cell) for cell in cells)
    with pytest.raises(SystemExit):
        main(["compare", "runs/a", "--siunitx", "--intervals", "brackets"])
    assert "write --intervals pm or none" in capsys.readouterr().err


def test_networks_side_by_side(runs):
    main(["compare", "runs/a", "runs/b0", "--out", "out", "--by_network"])
    lines = Path("out/table.md").read_text().splitlines()
    heads = cells_of(lines[0])
    assert [head.split(" (")[0] for head in heads] == ["detector", "a: near", "a: far mean", "b0: near", "b0: far mean"]
    values = pd.read_csv("out/table.csv").set_index(["run", "detector", "group", "dataset"])
    row = next(cells_of(line) for line in lines if line.startswith("| energy"))
    for run, cell in (("a", row[2]), ("b0", row[4])):
        found = values.loc[(run, "energy", "far", "mean")]
        assert [float(text.strip("*")) for text in cell.split(" / ")] == [
            round(found[m], 1) for m in ("fpr95", "auroc")
        ]
    assert next(cells_of(line) for line in lines if line.startswith("| gen"))[1:3] == ["- / -", "- / -"]


@pytest.mark.parametrize("method", ["holm", "bh"])
def test_p_values_adjusted_for_many_comparisons(runs, method, capsys):
    main(["compare", "runs/a", "runs/b0", "--out", "plain"])
    main(["compare", "runs/a", "runs/b0", "--out", "out", "--correct", method])
    plain, found = differences("plain"), differences("out")
    n = len(found)
    assert "p_adjusted" not in plain and f"for {n} comparisons" in capsys.readouterr().out
    pd.testing.assert_series_equal(plain["p_value"], found["p_value"])
    assert (found["p_adjusted"] >= found["p_value"]).all() and (found["p_adjusted"] <= 1).all()
    assert ((found["p_adjusted"] < 0.05) == (found["verdict"] != "undecided")).all()
    if method == "bh":
        from scipy.stats import false_discovery_control

        np.testing.assert_allclose(found["p_adjusted"], false_discovery_control(found["p_value"]))
    else:
        assert found["p_adjusted"].min() == pytest.approx(min(1, n * found["p_value"].min()))


def test_a_table_of_one_run_by_one_command(runs, capsys):
    main(["report", "runs/a", "--latex", "--detectors", "energy", "msp", "--intervals", "brackets"])
    tex = Path("runs/a/report/table.tex").read_text()
    assert tex in capsys.readouterr().out and "nap" not in tex and r"\begin{table}" in tex
    assert Path("runs/a/report/table.md").is_file() and Path("runs/a/report/index.html").is_file()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t[t["dataset"] != "photos"],
            r"other has no photos \(ood\). Compare them on the sets they share: --sets",
        ),
        (lambda t: t.drop(t.index[3]), r"same images of digits \(200 in runs/a, 199 in runs/other\).* lacks 3.png"),
        (lambda t: t.assign(path=t["path"].str.replace("7.png", "x.png")), "runs/other lacks .*7.png and"),
        (lambda t: t.assign(index=t["index"] + (t["dataset"] == "eights")), "same images of eights .* lacks index 0"),
        (lambda t: t.assign(label=t["label"].where(t["index"] != 5, 99)), "label of index 5 is .* in runs/a and 99"),
    ],
)
def test_other_images_are_refused(runs, change, said, capsys):
    write_scores(change(runs), "runs/other")
    with pytest.raises(SystemExit):
        main(["compare", "runs/a", "runs/other"])
    assert pd.Series([capsys.readouterr().err]).str.contains(said, regex=True).all()


def test_what_cannot_be_compared_is_named(runs, capsys):
    for arguments, said in [
        (["runs/none"], "no scores at runs/none/scores.parquet"),
        (["x=runs/none*"], "x=runs/none*: there is no folder"),
        (["runs/a", "runs/a"], "runs/a: the same run is given twice"),
        (["runs/a", f"x={Path('runs/a').resolve()}"], "runs/a: the same run is given twice"),
        (["a=runs/b0", "runs/a"], "a is the name of a run and of repetitions"),
        (["x=", "runs/a"], "no scores at scores.parquet"),
        (["runs/a", "--baseline", "vim"], "neither a run (a), nor a detector (msp, energy, nap_x)"),
        (["runs/a", "--detectors", "vim"], "no scores of vim; the runs have scores of msp, energy, nap_x"),
        (["runs/a", "--sets", "vim"], "runs/a has no vim; it has eights, photos, textures"),
    ]:
        with pytest.raises(SystemExit):
            main(["compare", *arguments])
        assert said in capsys.readouterr().err


def test_full_spectrum_counts_shifted_images_as_id(runs, capsys):
    for name in ("a", "b0"):
        scores = pd.read_parquet(f"runs/{name}/scores.parquet")
        shifted = scores[scores["role"] == "id"].assign(role="csid", group="csid", dataset="digits_c", path=None)
        shifted = shifted.assign(energy=shifted["energy"] - 2)
        write_scores(pd.concat([scores, shifted], ignore_index=True), f"runs/{name}")
    main(["compare", "runs/a", "runs/b0", "--detectors", "energy", "--out", "usual"])
    main(["compare", "runs/a", "runs/b0", "--detectors", "energy", "--out", "full", "--full_spectrum"])
    metrics = summarise(pd.read_parquet("runs/b0/scores.parquet")).set_index(["detector", "dataset"])["auroc"]
    usual, full = (pd.read_csv(f"{out}/table.csv").set_index(["run", "dataset"])["auroc"] for out in ("usual", "full"))
    assert usual["b0", "photos"] == pytest.approx(metrics["energy", "photos"])
    assert full["b0", "photos"] == pytest.approx(metrics["energy", "fs/photos"])
