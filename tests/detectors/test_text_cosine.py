"""MCM, MaxCosine and NegLabel: worked examples, their parts, the contract with a file of negatives."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lightning_ood.detectors.max_cosine import MaxCosine
from lightning_ood.detectors.mcm import MCM
from lightning_ood.detectors.neglabel import NegLabel, farthest
from lightning_ood.errors import InputError
from lightning_ood.features import Features, Head
from lightning_ood.testing import check_detector
from tests.helpers.toys import fitted_score, given, random_features

# Class texts along (1, 0) and (0, 1), scaled as a head with a temperature; the image (3, 4) has cosines .6 and .8.
HEAD = Head(torch.tensor([[100.0, 0], [0, 100]]), torch.zeros(2))


def image(*values: float) -> Features:
    pooled = torch.tensor([values])
    return replace(given(HEAD(pooled), pooled), head=HEAD)


def test_worked_examples() -> None:
    query = image(3.0, 4.0)
    assert MaxCosine().score(query, {}).item() == pytest.approx(0.8)
    expected = 0.8 / 0.5 - math.log(math.exp(0.6 / 0.5) + math.exp(0.8 / 0.5))
    assert MCM(temperature=0.5).score(query, {}).item() == pytest.approx(expected)
    assert MCM().score(query, {}).exp().item() == pytest.approx(1 / (1 + math.exp(-0.2)))
    assert NegLabel(temperature=0.5).score(query, {}).item() == pytest.approx(expected, rel=1e-6), "no negatives: MCM"


def test_neglabel_is_the_mean_over_groups() -> None:
    query = image(3.0, 4.0)
    fitted = {"negatives": torch.tensor([[-1.0, 0], [0, -1], [0.6, -0.8]])}  # cosines -.6, -.8, -.28
    detector = NegLabel("file", temperature=1.0, keep=1.0, groups=2)
    positive = math.exp(0.6) + math.exp(0.8)
    groups = (math.exp(-0.6) + math.exp(-0.28), math.exp(-0.8))  # dealt out in turn
    expected = np.log(np.mean([positive / (positive + group) for group in groups]))
    assert detector.score(query, fitted).item() == pytest.approx(float(expected), rel=1e-6)


def test_the_farthest_candidates_are_chosen_in_their_order() -> None:
    candidates = torch.tensor([[1.0, 0.1], [-2, -2], [0, 5], [-1, 0.1]])
    chosen = farthest(candidates, HEAD.weight, 2)
    torch.testing.assert_close(chosen, torch.nn.functional.normalize(candidates[[1, 3]], dim=1))


def test_contract(tmp_path: Path) -> None:
    file = tmp_path / "negatives.safetensors"
    save_file({"negatives": torch.randn(40, 16, generator=torch.Generator().manual_seed(3))}, file)
    check_detector(lambda: NegLabel(str(file), keep=0.5, groups=4), separates=False, permutable=False)
    save_file({"negatives": torch.randn(40, 3)}, tmp_path / "short.safetensors")
    train, _ = random_features(40, 16, 5)
    for name, says in (("short", "embeddings of 3 numbers"), ("missing", "cannot be read as a safetensors file")):
        with pytest.raises(InputError, match=says):
            fitted_score(NegLabel(str(tmp_path / f"{name}.safetensors"), keep=0.5, groups=4), train, train)
    with pytest.raises(InputError, match="fewer than groups=100"):
        fitted_score(NegLabel(str(file)), train, train)
