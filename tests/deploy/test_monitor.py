"""The monitor: exact p-values, a bounded alarm, merging, and the files that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

from lightning_ood import Monitor
from lightning_ood.commands.cli import main
from lightning_ood.deploy.detector import ExportedDetector
from lightning_ood.deploy.martingale import Martingale, OnlineRanks
from lightning_ood.errors import InputError
from tests.helpers.tiny import Images


def ranked(calibration: list[int], stream: list[int], seed: int = 0) -> np.ndarray:
    return OnlineRanks(np.bincount(calibration, minlength=10), seed)(np.array(stream))


def test_ranks_by_hand() -> None:
    """Of 4 calibration scores and those before it: strictly below, and a random share of the equal ones."""
    first, second, third = ranked([1, 3, 3, 5], [2, 2, 9])
    assert 1 / 5 < first <= 2 / 5 and 1 / 6 < second <= 3 / 6 and 6 / 7 < third <= 1


def test_ranks_equal_crepes_where_no_scores_are_equal() -> None:
    from crepes.base import p_values_batch

    generator = np.random.default_rng(0)
    order = generator.permutation(300)
    calibration, stream = order[:200], order[200:]
    ours = OnlineRanks(np.bincount(calibration, minlength=300))(stream)
    for i in range(100):
        known = np.concatenate([calibration, stream[:i]])
        theirs = p_values_batch(-known.astype(float), -stream[i : i + 1].astype(float), smoothing=False)[0]
        assert theirs - 1 / (len(known) + 1) < ours[i] <= theirs + 1e-12


def test_p_values_of_an_id_stream_are_uniform_whatever_the_batches() -> None:
    generator = np.random.default_rng(1)
    bins = generator.integers(0, 10, 5000)
    whole = ranked(bins[:100].tolist(), bins[100:].tolist(), seed=3)
    assert kstest(whole, "uniform").pvalue > 0.01
    ranks = OnlineRanks(np.bincount(bins[:100], minlength=10), seed=3)
    parts = np.concatenate([ranks(part) for part in np.split(bins[100:], [1, 40, 700, 3000])])
    assert np.array_equal(whole, parts)


def test_the_capital_of_one_bet_by_hand_and_whatever_the_batches() -> None:
    p = np.random.default_rng(2).random(50)
    one, other = Martingale(), Martingale()
    capital = one.update(p)
    parts = np.concatenate([other.update(part) for part in np.split(p, [1, 2, 30])])
    assert np.allclose(capital, parts) and np.isclose(one.log_peak, other.log_peak)
    reserve = 1 / (1 + np.log1p(1 / 10))
    bets = [1 - s + s * e * p[0] ** (e - 1) for s in (1, 0.3, 0.1) for e in (0.1, 0.3, 0.5, 0.7)]
    assert np.isclose(np.exp(capital[0]), reserve + (1 - reserve) * np.mean(bets))


def test_false_alarms_are_bounded_and_a_change_is_seen() -> None:
    """100 ID streams of 2000; experiments/monitor has 200 of 100,000."""
    generator = np.random.default_rng(3)
    alarms, delays = 0, []
    for seed in range(100):
        calibration = np.bincount(generator.poisson(400, 150), minlength=1000)
        martingale, ranks = Martingale(), OnlineRanks(calibration, seed)
        martingale.update(ranks(generator.poisson(400, 2000)))
        alarms += martingale.log_peak >= np.log(20)
        if martingale.log_peak < np.log(20):
            after = martingale.update(ranks(generator.poisson(300, 100)))
            delays.append(int((after >= np.log(20)).argmax()) if after.max() >= np.log(20) else 100)
    assert alarms <= 12  # Binomial(100, 0.05): 0.998 of its mass
    assert np.median(delays) < 15


@pytest.fixture
def scores(detector: ExportedDetector) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(4)
    return generator.choice(detector.calibration.scores["knn"], 300), generator.random(300) < 0.1


def test_a_merge_counts_both_streams(detector: ExportedDetector, scores: tuple[np.ndarray, np.ndarray]) -> None:
    values, flags = scores
    one, other, whole = (Monitor(detector, use="knn") for _ in range(3))
    one.add(values[:120], flags[:120])
    other.add(values[120:], flags[120:])
    whole.add(values, flags)
    one.merge(other)
    for key in ("images", "ood", "share", "low", "high", "quantiles"):
        assert one.summary()[key] == whole.summary()[key]
    assert one.streams == 3 and one.summary()["log10_limit"] > whole.summary()["log10_limit"]
    one.add(values[:5], flags[:5])
    assert one.images == 305
    with pytest.raises(InputError, match="can be merged"):
        one.merge(Monitor(detector, use="nap"))


def test_a_stream_of_images_raises_the_alarm(detector: ExportedDetector, tmp_path: Path) -> None:
    known, far = Images(60, seed=8), Images(60, seed=9, shift=130)
    monitor = Monitor(detector, use="nap")
    monitor.update([known[i][0] for i in range(60)])
    assert not monitor.alarm and monitor.summary()["share"] < 0.25
    found = monitor.update([*(far[i][0] for i in range(60)), str(tmp_path / "nowhere.png")])
    assert found[-1].error and monitor.images == 120
    assert monitor.alarm and 60 < (monitor.alarm_at or 0) < 100
    known_quantile, stream_quantile = monitor.summary()["quantiles"]["0.25"]
    assert stream_quantile < known_quantile


def test_what_is_written_goes_on(
    detector: ExportedDetector, scores: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    values, flags = scores
    whole, part = Monitor(detector, use="knn"), Monitor(detector, use="knn")
    whole.add(values, flags)
    part.add(values[:100], flags[:100])
    part.write(tmp_path / "watched")
    again = Monitor(detector, use="knn").resume(tmp_path / "watched")
    again.add(values[100:], flags[100:])
    assert again.summary() == whole.summary()
    assert np.allclose(again.curve, whole.curve)
    again.write(tmp_path / "watched")
    table = pd.read_parquet(tmp_path / "watched" / "curve.parquet")
    assert list(table) == ["images", "ood", "share", "low", "high", "log10_capital"] and len(table) == 300
    assert json.loads((tmp_path / "watched" / "summary.json").read_text())["images"] == 300
    page = (tmp_path / "watched" / "index.html").read_text()
    assert "<polyline" in page and "no alarm" in page
    with pytest.raises(InputError, match="another exported folder"):
        Monitor(detector, use="nap").resume(tmp_path / "watched")
    with pytest.raises(InputError, match="there is no"):
        Monitor(detector).resume(tmp_path)


def test_the_curve_is_bounded(detector: ExportedDetector) -> None:
    monitor = Monitor(detector, use="knn")
    for _ in range(5):
        monitor.add(np.zeros(700, dtype="float32"), np.zeros(700, dtype=bool))
    assert 400 < len(monitor.curve) <= 1000 and monitor.curve[-1][0] <= 3500


def test_the_command(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, shift in (("known", 0), ("far", 130)):
        (tmp_path / name).mkdir()
        for i in range(30):
            Images(30, seed=11, shift=shift)[i][0].save(tmp_path / name / f"{i:02}.png")
    command = [
        "monitor",
        "--detector",
        str(exported),
        "--trust_code",
        "--use",
        "nap",
        "--output",
        str(tmp_path / "out"),
    ]
    for folder, code, word in (("known", 0, "no alarm"), ("far", 1, "ALARM at image")):
        with pytest.raises(SystemExit) as stop:
            main([*command, str(tmp_path / folder), *(["--resume"] if folder == "far" else [])])
        assert stop.value.code == code
        assert word in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["images"] == 60
    with pytest.raises(SystemExit) as stop:
        main(["monitor", "--detector", str(exported), "--resume", str(tmp_path / "known")])
    assert stop.value.code == 2 and "give --output" in capsys.readouterr().err
