import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from lightning_ood.detectors.nac_me import NACME
from lightning_ood.errors import InputError
from lightning_ood.features import Features, Head, Reads
from lightning_ood.testing.toy import CLASSES, Toy

STATES = torch.tensor([[0.5, 0.2], [0.5, 0.9], [0.52, 0.95], [1.0, 0.45]])
TOY = Toy()


def of_states(states: Tensor, **arguments: object) -> float:
    metric = NACME(states.shape[1], **arguments)
    metric.count(states)
    return metric.compute().item()


def batch(tap: str | None = None) -> Features:
    taps = frozenset({tap} if tap else ())
    return TOY(TOY.train(), Reads(taps=taps, gradients=taps, head=True))


def test_by_hand() -> None:
    metric = NACME(2, bins=5, samples=2)
    metric.count(STATES)
    assert metric.counts.tolist() == [[0, 0, 3, 0], [1, 1, 0, 2]]  # the state of 1 is in no bin
    assert metric.compute().item() == pytest.approx(0.30)


@pytest.mark.parametrize("alpha", [1.0, 10.0, 100.0])
def test_ones_are_those_of_float32(alpha: float) -> None:
    """The authors' code: states in float32, M - 1 half-open bins of which none holds a state of 1."""
    products = torch.randn(3000, 6, generator=torch.Generator().manual_seed(1)) * 2
    states, edges = (alpha * products).sigmoid(), torch.linspace(0, 1, 50)
    inside = (states[None] >= edges[:-1, None, None]) & (states[None] < edges[1:, None, None])
    reference = ((inside.sum(1) / 1500).clamp(max=1).sum(0) / 50).mean().item()
    in_float64 = (alpha * products.double()).sigmoid()
    assert of_states(in_float64, samples=1500) == pytest.approx(reference, rel=1e-4)
    kept = of_states(in_float64, samples=1500, ones="keep")
    assert (kept > reference * 1.01) == (alpha > 1)  # alpha = 1: no state is 1
    metric = NACME(1, bins=5)
    metric.count(torch.tensor([16.63, 16.64, 17.0, 40.0], dtype=torch.float64)[:, None].sigmoid())
    assert metric.counts.tolist() == [[0, 0, 0, 1]]


def test_the_quirks_are_options() -> None:
    assert of_states(STATES, bins=5, samples=2, ones="keep") == pytest.approx((0.3 + 0.4) / 2)
    assert of_states(STATES, bins=5, samples=2, divide_by="bins") == pytest.approx(0.30 * 5 / 4)
    full = torch.arange(0.01, 1, 0.02)[:, None].repeat_interleave(3, 0)
    assert of_states(full, samples=2) == pytest.approx(49 / 50)
    assert of_states(full, samples=2, divide_by="bins") == pytest.approx(1)


def test_equal_states_cover_one_bin() -> None:
    assert of_states(torch.full((600, 7), 0.5)) == pytest.approx(1 / 50)


def test_grows_with_images_and_falls_with_samples() -> None:
    states = torch.rand(400, 6, generator=torch.Generator().manual_seed(0))
    of_images = [of_states(states[:n], samples=10) for n in (1, 20, 100, 400)]
    of_samples = [of_states(states, samples=o) for o in (1, 5, 20, 500)]
    assert of_images == sorted(set(of_images)) and of_samples == sorted(set(of_samples), reverse=True)


def test_agrees_with_the_formula() -> None:
    """The authors' settings apart from O, which is for more images."""
    features = batch()
    metric = NACME(16, samples=40)
    for rows in torch.arange(400).split(90):
        metric.update(features.select(rows))
    right = features.logits.argmax(1) == features.labels
    assert right.sum() > 0
    p, w = features.logits.double().softmax(1), TOY.head.weight.double()
    states = 1 / (1 + torch.exp(-0.1 * features.pooled.double() * ((p - 1 / CLASSES) @ w)))
    total = 0.0
    for neuron in range(16):
        counts = torch.histc(states[right, neuron], 49, 0, 1)  # no state is at an edge but 0.5, in the middle of a bin
        total += (counts / 40).clamp(max=1).sum().item() / 50
    assert metric.compute().item() == pytest.approx(total / 16, rel=1e-6)


def test_only_correctly_classified_images_count() -> None:
    features = batch()
    wrong = Features(features.logits, features.pooled, features.head, labels=(features.prediction + 1) % CLASSES)
    metric, all_of_them = NACME(16), NACME(16, correct_only=False)
    metric.update(wrong)
    all_of_them.update(wrong)
    assert metric.compute() == 0 and all_of_them.counts.sum() == 400 * 16


def test_a_map_with_its_gradient() -> None:
    """On the map that feeds the pooling sum times sum is H * W times the pooled product."""
    features = batch("last")
    pooled, last = NACME(16, samples=40, alpha=36.0), NACME(16, "last", samples=40, alpha=1.0)
    pooled.update(features)
    last.update(features)
    assert (pooled.counts - last.counts).abs().sum() <= 4  # states at an edge
    assert last.counts.sum() > 0


def test_merged_and_reset() -> None:
    features = batch()
    whole, first, second = NACME(16), NACME(16), NACME(16)
    whole.update(features)
    first.update(features.select(slice(0, 150)))
    second.update(features.select(slice(150, None)))
    first.merge_state(second)
    assert torch.equal(first.counts, whole.counts) and first.compute() == whole.compute()
    first.reset()
    assert first.compute() == 0


def test_refusals() -> None:
    features = batch()
    with pytest.raises(InputError, match="no labels"):
        NACME(16).update(Features(features.logits, features.pooled, features.head))
    with pytest.raises(InputError, match="linear classifier"):
        NACME(16).update(Features(features.logits, features.pooled, labels=features.labels))


def test_on_any_classifier() -> None:
    network = torch.nn.Linear(4, 3)
    metric = NACME(4, samples=1)
    feature = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    logits = network(feature).detach()
    head = Head(network.weight.detach(), network.bias.detach())
    metric.update(Features(logits, feature, head, labels=logits.argmax(1)))
    assert 0 < metric.compute() <= 0.98


def test_rank_correlation_averages_ties() -> None:
    """What the experiment reports; the authors' breaks ties by position (1.0 and 0.2 in the second and third)."""
    assert spearmanr([0.1, 0.2, 0.3, 0.4, 0.5], [1, 3, 2, 5, 4]).statistic == pytest.approx(0.8)
    assert spearmanr([1, 1, 1, 2], [1, 2, 3, 4]).statistic == pytest.approx(0.774597, abs=1e-6)
    assert spearmanr([1, 1, 1, 2], [3, 2, 1, 4]).statistic == pytest.approx(0.774597, abs=1e-6)
