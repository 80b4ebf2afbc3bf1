"""How many images enter the network: each once, however many detectors and sets there are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from torch import Tensor

from lightning_ood.commands.cli import main
from tests.helpers.runs import CORE, DETECTORS
from tests.helpers.tiny import Net

PROBES = 10  # images of noise or zeros by which a network's structure is found out, whatever the sets
SETS = 23 + 17 + 2


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter[str]:
    """Counts the images that enter the network; noise and zeros of the structural probes apart."""
    counter: Counter[str] = Counter()
    forward = Net.forward

    def counting(self: Net, images: Tensor) -> Tensor:
        probe = images.abs().max() > 1.1 or images.abs().max() == 0  # real ones are in [-1, 1], a step of 0.02 apart
        counter["probe" if probe else "image"] += len(images)
        return forward(self, images)

    monkeypatch.setattr(Net, "forward", counting)
    monkeypatch.chdir(tmp_path)
    return counter


def named(*names: str) -> list[str]:
    left_out = [part for name in CORE if name not in names for part in (f"--scoring.detectors.{name}", "null")]
    return left_out + [part for n in names for part in (f"--scoring.detectors.{n}", str(DETECTORS / f"{n}.yaml"))]


def call(seen: Counter[str], *arguments: object) -> int:
    seen.clear()
    main([str(argument) for argument in arguments])
    assert seen["probe"] <= PROBES
    return seen["image"]


MANY = ["msp", "energy", "react", "dice", "line", "nap", "nac", "mds", "rmds", "vim", "residual", "ash_s", "scale"]
MANY += ["she", "kl_matching", "fdbd", "gradnorm", "gen", "entropy", "nci", "vra", "maxlogit"]
MANY += ["ash_b", "ash_p", "odin", "knn", "nnguide", "fusion"]
TWICE = [part for n in ("nap", "energy") for part in (f"--scoring.detectors.another_{n}", str(DETECTORS / f"{n}.yaml"))]


@pytest.mark.parametrize("detectors", [["dice"], MANY], ids=["one", "thirty"])
def test_each_image_enters_once(config: Path, seen: Counter[str], detectors: list[str]) -> None:
    chosen = named(*detectors) + (TWICE if detectors == MANY else [])
    assert call(seen, "fit", "--config", config, *chosen) == 61
    assert call(seen, "test", "--config", config, *chosen) == SETS


def test_views_cost_one_more_however_many_ask(config: Path, seen: Counter[str]) -> None:
    second = ["--scoring.detectors.second", str(DETECTORS / "feature_norm.yaml")]
    assert call(seen, "fit", "--config", config, *second) == 2 * 61
    assert call(seen, "test", "--config", config, *second) == SETS


def test_a_step_costs_one_more(config: Path, seen: Counter[str]) -> None:
    stepping = [*named("energy", "odin"), "--scoring.detectors.odin.init_args.epsilon", "0.01"]
    assert call(seen, "test", "--config", config, *stepping) == 2 * SETS


def test_more_sets_cost_their_images(config: Path, seen: Counter[str]) -> None:
    chosen = named("msp", "energy")
    more = [part for i in range(8) for part in (f"--data.ood.far/more{i}.class_path", "tests.helpers.tiny.Images")]
    assert call(seen, "test", "--config", config, *chosen, *more) == SETS + 8 * 40


def test_a_cache_spares_the_network(config: Path, seen: Counter[str], tmp_path: Path) -> None:
    cached = ["--model.reading.cache", str(tmp_path / "features")]
    assert call(seen, "fit", "--config", config, *cached) == 2 * 61
    assert call(seen, "test", "--config", config, *cached) == SETS
    plain = (tmp_path / "runs" / "tiny" / "scores.parquet").read_bytes()
    others = [*cached, "--scoring.detectors.mds", str(DETECTORS / "mds.yaml")]
    assert call(seen, "fit", "--config", config, *others, "--overwrite") == 0
    assert call(seen, "test", "--config", config, *others) == 0
    assert call(seen, "test", "--config", config, *cached, "--scoring.detectors.mds", "null") == 0
    assert (tmp_path / "runs" / "tiny" / "scores.parquet").read_bytes() == plain
    assert call(seen, "test", "--config", config, *cached, "--data.ood.near/pale.init_args.shift", 41) == 17
