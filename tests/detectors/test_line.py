import ctypes
import itertools
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_ood.detectors.base import Fitted
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.line import LINe
from lightning_ood.detectors.react import ReAct
from lightning_ood.errors import InputError
from lightning_ood.features import Features, Head, NetworkInfo

HEAD = Head(torch.tensor([[1.0, -2, 3, 0.5], [-1, 2, 0.25, 1]]), torch.tensor([0.1, -0.2]))
TRAIN = torch.tensor([[1.0, 0, 2, 1], [3, 1, 0, 1], [0, 2, 1, 4], [1, 4, 1, 2]])
LABELS = torch.tensor([0, 0, 1, 1])
X = torch.tensor([[2.0, 1, 0.4, 3]])


def features(pooled: Tensor, head: Head = HEAD, labels: Tensor | None = None) -> Features:
    return Features(head(pooled), pooled, head, labels=labels)


def fit(detector: LINe, pooled: Tensor = TRAIN, labels: Tensor = LABELS, head: Head = HEAD) -> Fitted:
    detector.setup(NetworkInfo(head.num_features, head.num_classes, head))
    detector.update(features(pooled, head, labels))
    return detector.compute()


def test_values() -> None:
    detector = LINe(25, 50, 1.0)
    fitted = fit(detector)
    assert fitted["contributions"].tolist() == [[2, -1, 3, 0.5], [-0.5, 6, 0.25, 3]]
    assert fitted["unit_thresholds"].tolist() == [1.25, 1.625]
    assert fitted["weight_thresholds"].tolist() == [-0.3125, -0.078125]
    torch.testing.assert_close(detector.logits(features(X), fitted), torch.tensor([[0.6, 2.8]]))
    assert detector.score(features(X), fitted).item() == pytest.approx(2.905083, abs=1e-6)


@pytest.mark.parametrize(("threshold", "value"), [(1.0, 2.187335), (None, 3.544397)])
def test_without_pruning_it_is_react_or_energy(threshold: float | None, value: float) -> None:
    detector = LINe(None, None, threshold)
    score = detector.score(features(X), fit(detector))
    assert score.item() == pytest.approx(value, abs=1e-6)
    plain = Energy() if threshold is None else ReAct(threshold=threshold)
    torch.testing.assert_close(score, plain.score(features(X), {}))


def random_case(seed: int = 0) -> tuple[Head, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    head = Head(torch.randn(6, 24, generator=draw), torch.randn(6, generator=draw))
    labels = torch.randint(0, 5, (300,), generator=draw)  # class 5 has no images
    return head, torch.rand(300, 24, generator=draw) * 2, labels, torch.rand(64, 24, generator=draw) * 2


PARTS = [*itertools.product((30, None), (40, None), (1.0, None)), (90, 90, 1.0), (10, 10, 0.8)]


@pytest.mark.parametrize(("p_w", "p_a", "delta"), PARTS)
def test_agrees_with_the_formula(p_w: float | None, p_a: float | None, delta: float | None) -> None:
    head, train, labels, test = random_case()
    detector = LINe(p_w, p_a, delta)
    scores = detector.score(features(test, head), fit(detector, train, labels, head))
    w, b = head.weight.double().numpy(), head.bias.double().numpy()
    z, y = train.double().numpy(), labels.numpy()
    for i, x in enumerate(np.minimum(test.double().numpy(), np.inf if delta is None else delta)):
        c = int((w @ x + b).argmax())
        units, weights = np.ones(24, bool), np.ones((6, 24), bool)
        if (y == c).any():
            m = w[c] * z[y == c].mean(0)
            if p_a is not None:
                units = m > np.percentile(m, p_a)
            if p_w is not None:
                weights = abs(m) * w > np.percentile(abs(m) * w, p_w)
        expected = np.log(np.exp((w * weights) @ (x * units) + b).sum())
        assert scores[i].item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_contributions_are_the_class_means_of_the_gradient() -> None:
    head, train, labels, _ = random_case(1)
    z = train.clone().requires_grad_()
    head(z).gather(1, labels[:, None]).sum().backward()
    assert z.grad is not None
    taylor = (z * z.grad).detach()
    detector = LINe()
    fitted = fit(detector, train, labels, head)
    for c in range(5):
        torch.testing.assert_close(fitted["contributions"][c], taylor[labels == c].mean(0), atol=1e-6, rtol=1e-5)
    ordered = np.sort(fitted["contributions"].numpy(), axis=1)[:, ::-1]
    spectrum = detector.summary(fitted)["contributions"]
    np.testing.assert_allclose(spectrum["middle"], np.median(ordered, axis=0), atol=1e-6)


def test_found_clip() -> None:
    head, train, labels, _ = random_case(2)
    detector = LINe(clip_percentile=80)
    fitted = fit(detector, train, labels, head)
    assert detector.summary(fitted)["clip"] == pytest.approx(np.percentile(train.numpy(), 80), rel=1e-3)


def test_class_without_images_prunes_nothing() -> None:
    head, train, labels, _ = random_case(3)
    detector = LINe(90, 90, None)
    fitted = fit(detector, train, labels, head)
    test = features(head.weight[5:6] * 3, head)  # predicted as class 5
    assert test.prediction.item() == 5
    torch.testing.assert_close(detector.logits(test, fitted), test.logits)


def test_labels_are_needed() -> None:
    detector = LINe()
    detector.setup(NetworkInfo(4, 2, HEAD))
    with pytest.raises(InputError, match="labels"):
        detector.update(features(TRAIN))


def test_state_of_imagenet_is_small() -> None:
    head = Head(torch.zeros(1000, 2048), torch.zeros(1000))
    detector = LINe(10, 10, 0.8)
    detector.setup(NetworkInfo(2048, 1000, head))
    assert sum(state.nbytes for state in detector.metric_state.values()) < 20e6


def peak() -> float:
    """Megabytes of memory that this process had at most (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def score_imagenet(queue: "multiprocessing.Queue[tuple[int, float, float, float]]") -> None:
    """Fits and scores at K = 1000, D = 2048: classes predicted, megabytes of scoring, seconds of fit and scoring."""
    draw = torch.Generator().manual_seed(0)
    head = Head(torch.randn(1000, 2048, generator=draw) / 45, torch.zeros(1000))
    detector = LINe(10, 10, 0.8)
    detector.setup(NetworkInfo(2048, 1000, head))
    for labels in torch.arange(2000).split(500):
        detector.update(features(torch.rand(500, 2048, generator=draw), head, labels % 1000))
    start = time.monotonic()
    fitted = detector.compute()
    fit_seconds = time.monotonic() - start
    batch = features(head.weight[torch.arange(256) * 3].clamp(min=0) * 20, head)
    ctypes.CDLL(None).malloc_trim(0)  # gives back what is free
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is held now
    before, start = peak(), time.monotonic()
    detector.score(batch, fitted)
    classes = len(head(batch.pooled.clamp(max=0.8)).argmax(1).unique())
    queue.put((classes, peak() - before, fit_seconds, time.monotonic() - start))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from Linux's /proc")
def test_a_batch_of_imagenet_needs_less_than_a_gigabyte() -> None:
    """In a process of its own, every image of another class: the dearest batch."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=score_imagenet, args=(queue,))
    process.start()
    classes, megabytes, fit_seconds, seconds = queue.get(timeout=500)
    process.join()
    print(
        f"LINe at K = 1000, D = 2048: {megabytes:.0f} MB, {seconds:.1f} s for a batch of 256; fit {fit_seconds:.1f} s"
    )
    assert classes == 256 and 0 < megabytes < 1000 and seconds < 120
