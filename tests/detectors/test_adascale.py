from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lightning_ood.backbone import Backbone
from lightning_ood.detectors.adascale import AdaSCALE
from lightning_ood.detectors.msp import MSP
from lightning_ood.detectors.odin import ODIN
from lightning_ood.errors import InputError
from lightning_ood.features import NetworkInfo, Reads
from lightning_ood.suite import DetectorSuite
from lightning_ood.testing import check_detector
from lightning_ood.views.perturbation import TrivialPixels
from tests.helpers.toys import features, random_features


def with_moved(batch, moved, detector):
    return replace(batch, views={detector.steps[0]: replace(batch, pooled=moved)})


def test_percentile_of_one_image():
    # Q' of training images 1, 2, 3, 4 (only the first unit moves, by nothing); of the image 2.5: half are below.
    detector = AdaSCALE("l", low=20, high=80, k1=50, k2=50, weight=2.0)
    train = features(torch.tensor([[1.0, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0]]))
    detector.setup(NetworkInfo(3, 2, train.head))
    detector.update(with_moved(train, train.pooled, detector))
    fitted = detector.compute()
    assert fitted["shifts"].tolist() == [1, 2, 3, 4]
    image = features(torch.tensor([[1.5, 0.9, 0.6]]))
    batch = with_moved(image, torch.tensor([[2.0, 9, -9]]), detector)  # relu(2) + 2 * |1.5 - 2| = 3
    assert detector.percentile(batch, fitted).item() == pytest.approx(20 + 0.25 * 60)
    # 35 % of 3 units round to 1, so that 2 are kept: s1 = 3.0, s2 = 2.4, a factor of 1.25^2.
    torch.testing.assert_close(detector.logits(batch, fitted), image.logits * 1.5625)
    scaled = AdaSCALE("a", low=20, high=80, k1=50, k2=50, weight=2.0).logits(batch, fitted)
    assert image.head is not None
    torch.testing.assert_close(scaled, image.head(image.pooled * np.exp(np.float32(1.25))))


@pytest.mark.parametrize("variant", ["a", "l"])
def test_reference(variant):
    train, test = random_features()
    noise = torch.randn(train.pooled.shape, generator=torch.Generator().manual_seed(1))
    detector = AdaSCALE(variant, low=50, high=90, k1=30, k2=10, weight=3.0)
    detector.setup(NetworkInfo(24, 6, train.head))
    moved = {"train": train.pooled + 0.1 * noise, "test": test.pooled + 0.3 * noise[: len(test)]}
    for rows in (slice(0, 100), slice(100, None)):
        detector.update(with_moved(train, moved["train"], detector).select(rows))
    score = detector.score(with_moved(test, moved["test"], detector), detector.compute()).numpy()

    def shift(z, other):
        first, second = np.argsort(-z)[:7], np.argsort(-z)[:2]
        return np.maximum(other[first], 0).sum() + 3 * np.abs(z - other)[second].sum()

    shifts = np.array([shift(*pair) for pair in zip(train.pooled.numpy(), moved["train"].numpy(), strict=True)])
    w, b = train.head.weight.double().numpy(), train.head.bias.double().numpy()
    for z, other, found in zip(test.pooled.numpy(), moved["test"].numpy(), score, strict=True):
        p = 50 + (1 - (shifts <= shift(z, other)).mean()) * 40
        k = 24 - round(24 * p / 100)
        r = z.sum() / np.sort(z)[-k:].sum()
        logits = w @ (z * np.exp(r)) + b if variant == "a" else (w @ z + b) * r**2
        assert found == pytest.approx(np.log(np.exp(logits - logits.max()).sum()) + logits.max(), rel=1e-3)


def test_only_the_entries_of_smallest_gradient_move():
    step = TrivialPixels("a", (0.5, 0.25, 1.0), lambda features: features.logits, 0.5)
    gradient = torch.tensor([[3.0, -1], [0.5, -9], [0, 2]]).view(1, 3, 1, 2)
    moved = step(torch.zeros(1, 3, 1, 2), gradient).flatten()
    assert moved.tolist() == [0, -0.5, 0.25, 0, 0, 0]  # those of gradient -1, 0.5 and 0, the last of which stays


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 12, 3), nn.Linear(12, 4)

    def forward(self, images):
        return self.fc(self.conv(images).relu().mean((2, 3)))


def test_the_fit_pass_computes_what_it_reads():
    suite = DetectorSuite({"a": AdaSCALE("a"), "l": AdaSCALE("l", base=MSP())})
    backbone = Backbone(Net().eval(), (6, 6))
    suite.setup(backbone.info())
    images = torch.randn(20, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    assert len(suite.reads("fit").perturbations) == 1  # the two share it
    with torch.no_grad(), backbone:
        backbone.configure(suite.reads("fit"))
        batch = backbone(images)
        suite.update(batch)
        assert not suite.compute()
        backbone.configure(suite.reads("test"))
        assert suite.score(backbone(images)).isfinite().all()
    for detector in suite.detectors.values():
        assert detector.extra_forwards == {"fit": 1, "test": 1}

    x = images.clone().requires_grad_()
    network = Net().eval()
    gradient = torch.autograd.grad(network(x).max(1).values.sum(), x)[0]
    moved = images.clone()
    for i in range(20):
        rows = gradient[i].abs().flatten().argsort()[:5]  # 5 % of 108
        moved[i].view(-1)[rows] += 0.5 * gradient[i].flatten()[rows].sign()
    expected = network.conv(moved).relu().mean((2, 3))
    torch.testing.assert_close(batch.views[suite.detectors["a"].steps[0]].pooled, expected.detach())


def test_refusals():
    with pytest.raises(InputError, match="stored features"):
        AdaSCALE()._shift(features(torch.ones(1, 3)))
    with pytest.raises(InputError, match="write epsilon: 0"):
        AdaSCALE(base=ODIN(epsilon=0.1)).setup(NetworkInfo(3, 2, features(torch.ones(1, 3)).head))
    for arguments in ({"low": 90}, {"high": 100}, {"k1": 0}, {"share": 2}, {"variant": "b"}):
        with pytest.raises(InputError):
            AdaSCALE(**arguments)
    assert Reads((), perturbations=AdaSCALE().steps).perturbations == AdaSCALE("l", low=10).steps


def test_contract():
    check_detector(lambda: AdaSCALE("l", base=MSP()), separates=False)
