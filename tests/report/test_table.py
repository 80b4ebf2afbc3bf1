import random
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from lightning_ood.commands.report import main as report
from lightning_ood.errors import InputError
from lightning_ood.metrics.rates import METRICS, compare, ood_metrics
from lightning_ood.report import accuracy, read_scores, summarise, write_metrics, write_scores

COLUMNS = [
    "detector",
    "dataset",
    "group",
    "n_id",
    "n_ood",
    "auroc",
    "fpr95",
    "fpr95_ood_positive",
    "aupr_in",
    "aupr_out",
    "auroc_low",
    "auroc_high",
    "fpr95_low",
    "fpr95_high",
]


def test_scores_on_disk(scores, tmp_path):
    path = write_scores(scores.astype({"msp": "float64"}), tmp_path / "run")
    assert [file.name for file in path.parent.iterdir()] == ["scores.parquet"]
    types = {field.name: str(field.type).removeprefix("large_") for field in pq.read_schema(path)}
    text = dict.fromkeys(["dataset", "role", "group", "path"], "string")
    whole = dict.fromkeys(["index", "label", "prediction"], "int64")
    assert types == {**text, **whole, "msp": "float", "energy": "float", "nap": "float"}
    assert list(types)[:7] == ["dataset", "role", "group", "index", "path", "label", "prediction"]
    assert pq.read_table(path)["label"].null_count == pq.read_table(path)["path"].null_count == 120
    again = read_scores(tmp_path / "run")
    np.testing.assert_array_equal(again["energy"], scores["energy"].astype("float32"))
    pd.testing.assert_frame_equal(summarise(again), summarise(scores))


def test_a_failed_write_keeps_the_old_file(scores, tmp_path, monkeypatch):
    write_scores(scores, tmp_path)

    def broken(table, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", broken)
    with pytest.raises(OSError, match="disk full"):
        write_scores(scores.head(5), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["scores.parquet"]
    assert len(read_scores(tmp_path)) == len(scores)


def test_metrics_are_those_of_the_scores(scores, tmp_path):
    metrics = pd.read_csv(write_metrics(summarise(scores), tmp_path))
    assert list(metrics.columns) == COLUMNS
    assert len(metrics) == 3 * (3 + 2)
    row = metrics.set_index(["detector", "dataset"]).loc[("energy", "photos")]
    id_scores = scores.loc[scores["role"] == "id", "energy"].astype("float32")
    expected = ood_metrics(id_scores, scores.loc[scores["dataset"] == "photos", "energy"].astype("float32"))
    assert {name: row[name] / 100 for name in METRICS} == pytest.approx(expected)
    assert (row["group"], row["n_id"], row["n_ood"]) == ("far", 60, 40)
    assert (metrics["auroc_low"] < metrics["auroc"]).all()
    assert (metrics["auroc"] < metrics["auroc_high"]).all()
    assert (metrics["fpr95_low"] <= metrics["fpr95"]).all()
    assert (metrics["fpr95"] <= metrics["fpr95_high"]).all()
    assert metrics[["auroc_low", "fpr95_low"]].min().min() >= 0
    assert metrics[["auroc_high", "fpr95_high"]].max().max() <= 100


def test_group_means(scores):
    metrics = summarise(scores)
    far = metrics[(metrics["detector"] == "nap") & (metrics["group"] == "far")].set_index("dataset")
    assert far.loc["mean", list(METRICS)].to_list() == pytest.approx(
        far.loc[["photos", "textures"], list(METRICS)].mean()
    )
    assert (far.loc["mean", "n_id"], far.loc["mean", "n_ood"]) == (60, 80)
    near = metrics[(metrics["detector"] == "nap") & (metrics["group"] == "near")].set_index("dataset")
    same = near.columns.drop("group")
    assert near.loc["mean", same].to_list() == pytest.approx(near.loc["eights", same].to_list())  # a mean of one set
    # The ID images are shared, so a mean over two sets has more than 1/sqrt(2) of one set's spread.
    width = far["auroc_high"] - far["auroc_low"]
    assert width[["photos", "textures"]].mean() / np.sqrt(2) < width["mean"] < width[["photos", "textures"]].max()


def test_numbers_of_a_set_do_not_depend_on_the_others(scores):
    alone = scores.loc[scores["dataset"].isin(["digits", "photos"])].drop(columns=["msp", "nap"])
    rows = summarise(scores).query("detector == 'energy' and dataset == 'photos'")
    pd.testing.assert_frame_equal(
        summarise(alone).query("dataset == 'photos'").reset_index(drop=True), rows.reset_index(drop=True)
    )
    shuffled = summarise(scores.sample(frac=1, random_state=0)).set_index(["detector", "dataset", "group"])
    pd.testing.assert_frame_equal(shuffled.sort_index(), summarise(scores).set_index(shuffled.index.names).sort_index())


def test_one_image_sets_without_group(scores):
    few = pd.concat([scores[scores["role"] == "id"], scores[scores["dataset"] == "photos"].head(1)])
    metrics = summarise(few.assign(group=few["group"].where(few["role"] == "id", None)))
    assert set(metrics["group"]) == {"ood"}
    assert (metrics[["auroc_low", "auroc_high"]] == [0, 100]).all(axis=None)
    assert metrics.notna().all(axis=None)
    single = summarise(pd.concat([few[few["role"] == "id"].head(1), few[few["role"] == "ood"]]))
    assert single.notna().all(axis=None)


def test_accuracy(scores):
    assert accuracy(scores) == pytest.approx(90)
    scores.loc[0, "label"] = None  # an image without a label does not count; this one was wrong
    assert accuracy(scores) == pytest.approx(100 * 54 / 59)
    assert accuracy(scores.assign(label=None)) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.assign(nap=s["nap"].where(s.index != 70, np.nan)), "nap scored image 10 of eights nan; 1 of 180"),
        (lambda s: s.assign(msp=s["msp"].where(s.index != 7, np.inf)), r"msp scored image 7 \(7.png\) of digits inf"),
        (lambda s: s[s["role"] == "id"], "no OOD image"),
        (lambda s: s[s["role"] == "ood"], "no ID image"),
        (lambda s: s.drop(columns="prediction"), "lacks prediction"),
        (lambda s: s.assign(role="test"), "unknown role 'test'"),
        (lambda s: s.replace({"dataset": {"eights": "mean"}}), "cannot be called 'mean'"),
        (lambda s: s.replace({"dataset": {"eights": "photos"}}), "'photos' is in several groups"),
    ],
)
def test_what_cannot_be_summarised(scores, change, message):
    with pytest.raises(InputError, match=message):
        summarise(change(scores))


def test_no_scores_there(tmp_path):
    with pytest.raises(InputError, match=r"no scores at .*scores\.parquet"):
        read_scores(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: pd.concat([s, s]), r"180 of 360 rows repeat an image, the first is index \d+ of"),
        (lambda s: pd.concat([s, *[s.iloc[[3]]] * 200]), r"200 of 380 rows repeat an image, the first is index 3 of"),
        (lambda s: s.assign(fold=1), r"fold \(int64\): every column but dataset, .* drop this column, or convert it"),
        (lambda s: s.assign(seen=True, nap=s["nap"].round().astype("int32")), r"nap \(int32\), seen \(bool\)"),
    ],
)
def test_scores_that_would_give_wrong_numbers(scores, change, message, tmp_path):
    change(scores).to_parquet(tmp_path / "scores.parquet", index=False)
    with pytest.raises(InputError, match=r"scores\.parquet: " + message):
        read_scores(tmp_path)


def test_aupr_by_trapezoids_on_request(scores):
    metrics = summarise(scores, trapezoid=True)
    assert list(metrics.columns) == [*COLUMNS, "aupr_in_trapezoid", "aupr_out_trapezoid"]
    pd.testing.assert_frame_equal(metrics[COLUMNS], summarise(scores))
    row = metrics[(metrics["detector"] == "msp") & (metrics["dataset"] == "photos")].iloc[0]
    sides = [scores.loc[scores["dataset"] == name, "msp"].astype("float32") for name in ("digits", "photos")]
    assert row["aupr_in_trapezoid"] == pytest.approx(100 * compare(*(s.to_numpy() for s in sides)).aupr_in_trapezoid)


def test_report_writes_trapezoids_when_asked(scores, tmp_path):
    write_scores(scores, tmp_path)
    report(["--aupr", "trapezoid", str(tmp_path)])
    assert "aupr_out_trapezoid" in pd.read_csv(tmp_path / "metrics.csv")
    report([str(tmp_path)])
    assert list(pd.read_csv(tmp_path / "metrics.csv")) == COLUMNS


def test_a_flipped_bit_in_a_table_of_scores_is_refused_or_changes_nothing(scores: pd.DataFrame, tmp_path: Path) -> None:
    write_scores(scores, tmp_path)
    whole, path = read_scores(tmp_path), tmp_path / "scores.parquet"
    content, draw, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(60):
        damaged = bytearray(content)
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            assert read_scores(tmp_path).equals(whole)
        except InputError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 20
    whole.assign(msp=whole["msp"] + 1).to_parquet(path)  # of another program, which has no hash
    assert not read_scores(tmp_path).equals(whole)
