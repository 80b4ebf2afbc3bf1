from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_ood.detectors.calibration import split
from lightning_ood.detectors.combine.fusion import Fusion
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.gram import Gram, gram, last_of_each_size
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.testing import check_detector

SHAPES = {"a": torch.Size((3, 4)), "b": torch.Size((2, 2, 2))}
INFO = NetworkInfo(4, 3, maps=SHAPES, blocks=("a", "b"))


def batch(n: int, seed: int) -> Features:
    draw = torch.Generator().manual_seed(seed)
    maps = {tap: torch.randn(n, *shape, generator=draw) for tap, shape in SHAPES.items()}
    return Features(torch.randn(n, 3, generator=draw), torch.zeros(n, 4), maps=maps, index=torch.arange(n))


def test_gram_of_one_map():
    # F = (1 2; 3 -1): F F^T = (5 1; 1 10), sums of rows 6 and 11; order 2: (17 13; 13 82), 30 and 95, square roots.
    found = gram(torch.tensor([[[1.0, 2], [3, -1]]]), 2)
    torch.testing.assert_close(found, torch.tensor([[6.0, 11, 30**0.5, 95**0.5]]))
    # Negative sums keep their sign; large entries do not overflow.
    torch.testing.assert_close(gram(torch.tensor([[[-1.0], [3]]]), 1), torch.tensor([[-2.0, 6]]))
    large = gram(torch.full((1, 2, 3), 1e4), 10)
    torch.testing.assert_close(large[0, -1:], torch.tensor([1e8 * 6**0.1]))


def test_reference():
    train, test = batch(300, 0), batch(20, 1)
    detector = Gram(orders=4, held_out=0.3, images=1000)
    detector.setup(INFO)
    for rows in (slice(0, 70), slice(70, None)):
        detector.update(train.select(rows))
    score = detector.score(test, detector.compute()).numpy()

    def entries(features: Features, tap: str) -> np.ndarray:
        rows, out = features.maps[tap].double().numpy(), []
        for f in rows.reshape(len(rows), rows.shape[1], -1):
            powers = [(f**p @ (f**p).T).sum(1) for p in range(1, 5)]
            out.append(np.concatenate([np.sign(g) * np.abs(g) ** (1 / p) for p, g in enumerate(powers, 1)]))
        return np.array(out)

    parts = split(train, 0.3, 0, 1)
    total = np.zeros(20)
    for tap in SHAPES:
        known, held, new = (entries(some, tap) for some in (*parts, test))
        predicted, confidence = parts[0].prediction.numpy(), test.probs.amax(1).numpy()
        low = np.stack([known[predicted == c].min(0) for c in range(3)])
        high = np.stack([known[predicted == c].max(0) for c in range(3)])

        def deviation(values, classes, low=low, high=high):
            lo, hi = low[classes], high[classes]
            return (
                np.maximum(lo - values, 0) / np.abs(lo + 1e-6) + np.maximum(values - hi, 0) / np.abs(hi + 1e-6)
            ).sum(1)

        mean = (deviation(held, parts[1].prediction.numpy()) / parts[1].probs.amax(1).numpy()).mean()
        total += deviation(new, test.prediction.numpy()) / confidence / mean
    np.testing.assert_allclose(score, -total, rtol=1e-3)


def test_a_class_that_is_never_predicted_has_the_bounds_of_all():
    train = batch(100, 0)
    train = replace(train, logits=train.logits - torch.tensor([0, 0, 100.0]))
    detector = Gram(orders=2)
    detector.setup(INFO)
    detector.update(train)
    fitted = detector.compute()
    torch.testing.assert_close(fitted["low"][2], fitted["low"][:2].amin(0))
    torch.testing.assert_close(fitted["high"][2], fitted["high"][:2].amax(0))


def test_default_maps():
    info = replace(INFO, maps={**SHAPES, "c": torch.Size((5, 2, 2))}, blocks=("a", "b", "c"))
    assert last_of_each_size(info) == ["a", "c"]


def test_refusals():
    for arguments in ({"orders": 0}, {"held_out": 0}, {"held_out": 1}, {"images": 0}):
        with pytest.raises(InputError):
            Gram(**arguments)
    detector = Gram(held_out=1e-9)
    detector.setup(INFO)
    detector.update(batch(3, 0))
    with pytest.raises(InputError, match="held out"):
        detector.compute()


def test_inside_a_fusion_that_holds_images_out():
    detector = Fusion({"gram": Gram(orders=2), "energy": Energy()}, held_out=0.3)
    detector.setup(INFO)
    detector.update(batch(300, 0))
    assert detector.score(batch(5, 1), detector.compute()).isfinite().all()


def test_contract():
    check_detector(lambda: Gram(["block2"], 3))
