from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lightning_ood.detectors.calibration import Calibration, FeatureSample, split
from lightning_ood.detectors.combine.layers import Layers
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.feature_norm import FeatureNorm
from lightning_ood.detectors.knn import KNN
from lightning_ood.detectors.mds import MDS
from lightning_ood.detectors.nap import NAP
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.ops.hashing import hash_index
from tests.helpers.toys import random_features, setup_for

TRAIN, _ = random_features()
SETUP = setup_for(TRAIN)


def pieces(features: Features, order: list[tuple[int, int]]) -> list[Features]:
    return [features.select(slice(a, b)) for a, b in order]


def test_the_parts_of_a_sample_are_of_the_same_images() -> None:
    maps = {"a": torch.arange(300.0)[:, None, None, None].expand(300, 2, 3, 3).contiguous()}
    features = Features(TRAIN.logits, TRAIN.pooled, maps=maps, index=TRAIN.index)
    reads_a = NAP(tap="a")
    info = NetworkInfo(24, 6, maps={"a": torch.Size((2, 3, 3))})
    reads_a.setup(info)
    samples = []
    for order in ([(0, 300)], [(290, 300), (0, 1), (1, 290)]):
        sample = FeatureSample(50, info, [reads_a])
        for piece in pieces(features, order):
            sample.update(piece)
        samples.append(sample.compute(info))
    chosen = hash_index(torch.arange(300), 0).argsort()[:50]
    for held in samples:
        assert held.maps["a"].shape == (50, 2, 3, 3) and held.gradients == {} and held.attention is None
        assert held.maps["a"][:, 1, 2, 2].tolist() == chosen.tolist()
        assert torch.equal(held.logits, TRAIN.logits[chosen]) and torch.equal(held.pooled, TRAIN.pooled[chosen])


@pytest.mark.parametrize("size", [40, 1000])
def test_scores_of_a_sample_are_those_of_its_images(size: int) -> None:
    """Whether a detector is scored on the way or after its fit, the rows are of the same images."""
    detectors = [Energy(), MDS(), KNN(5)]
    for detector in detectors:
        detector.setup(SETUP)
        detector.update(TRAIN)
    fitted = [detector.compute() for detector in detectors]
    calibration = Calibration(detectors, size, SETUP, seed=3)
    for piece in pieces(TRAIN, [(0, 1), (1, 120), (120, 300)]):
        calibration.update(piece)
    chosen = TRAIN.select(hash_index(TRAIN.index, 3).argsort()[:size])  # type: ignore[arg-type]
    expected = torch.stack([d.score(chosen, f).double() for d, f in zip(detectors, fitted, strict=True)], dim=1)
    torch.testing.assert_close(calibration.compute(fitted, batch=7), expected, rtol=1e-5, atol=1e-6)


def test_maps_are_stored_as_what_each_detector_reads_of_them() -> None:
    """Means for Layers and norms for FeatureNorm, of the same map, beside a whole one."""
    shapes = {"a": torch.Size((2, 3, 3)), "b": torch.Size((4, 5))}
    draw = torch.Generator().manual_seed(0)
    maps = {tap: torch.randn(300, *shape, generator=draw) for tap, shape in shapes.items()}
    info, train = replace(SETUP, maps=shapes, blocks=("a", "b")), replace(TRAIN, maps=maps)
    jigsaw = FeatureNorm().jigsaw
    train = replace(train, views={jigsaw: train})
    detectors = [Layers(KNN(5)), FeatureNorm(), NAP(KNN(5), tap="b")]
    for detector in detectors:
        detector.setup(info)
        detector.update(train)
    fitted = [detector.compute() for detector in detectors]
    calibration = Calibration(detectors, 40, info)
    calibration.update(train)
    stored = {form: {t: s for (_, t), s in one.shapes.items() if t} for form, one in calibration.features.items()}  # type: ignore[union-attr]
    assert stored == {"mean": {"a": (2, 1), "b": (4, 1)}, "norm": {"a": (2, 1), "b": (4, 1)}, "whole": {"b": (4, 5)}}
    chosen = train.select(hash_index(TRAIN.index, 0).argsort()[:40])  # type: ignore[arg-type]
    expected = torch.stack([d.score(chosen, f).double() for d, f in zip(detectors, fitted, strict=True)], dim=1)
    torch.testing.assert_close(calibration.compute(fitted), expected, rtol=1e-5, atol=1e-6)


def test_images_are_set_aside_by_their_index() -> None:
    fitted_on, scored_on = split(TRAIN, 0.3, seed=1)
    index: Tensor = torch.cat([fitted_on.index, scored_on.index])  # type: ignore[list-item]
    assert index.sort().values.tolist() == list(range(300))
    assert 60 < len(scored_on) < 120
    again = torch.cat([split(TRAIN.select(slice(i, i + 1)), 0.3, 1)[1].index for i in range(300)])  # type: ignore[misc]
    assert torch.equal(again, scored_on.index)  # type: ignore[arg-type]
    assert split(TRAIN, 0, 0) == (TRAIN, TRAIN)
    with pytest.raises(InputError, match="index"):
        split(Features(TRAIN.logits, TRAIN.pooled), 0.3, 0)
