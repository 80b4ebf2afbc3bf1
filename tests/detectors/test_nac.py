import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_ood.detectors.nac import NAC, NACLayer, balanced_subset
from lightning_ood.errors import InputError
from lightning_ood.features import Features, Head, NetworkInfo
from lightning_ood.metrics.rates import auroc
from lightning_ood.statistics.coverage import StateCounts, bin_edges, bin_index, count_bins, coverage, layer_score
from lightning_ood.testing.toy import CLASSES, Toy

HEAD = Head(torch.tensor([[1.0, 0, -1], [0, 2, 1]]), torch.zeros(2))
STATES = torch.tensor([[0.5, 0.2], [0.5, 0.9], [0.52, 0.95], [1.0, 0.45]])
QUERIES = torch.tensor([[0.51, 0.93], [0.1, 0.41], [0.42, 0.41]])


def features(pooled: Tensor, head: Head = HEAD, index: Tensor | None = None) -> Features:
    return Features(head(pooled), pooled, head, index=index)


def ready(detector: NAC, info: NetworkInfo | None = None) -> NAC:
    detector.setup(info or NetworkInfo(3, 2, HEAD))
    return detector


def test_states_of_the_pooled_layer() -> None:
    x = features(torch.tensor([[1.0, 0.5, 2]]))
    mild = ready(NAC({"pooled": NACLayer(alpha=1)}))
    torch.testing.assert_close(
        mild.states(x, "pooled"), torch.tensor([[0.381777, 0.618223, 0.873034]]).double(), atol=1e-6, rtol=0
    )
    steep = ready(NAC({"pooled": NACLayer(alpha=100)})).states(x, "pooled")
    assert steep[0, 0].item() == pytest.approx(1.2e-21, rel=0.05) and steep[0, 1:].tolist() == [1.0, 1.0]


def test_uniform_predictions_leave_every_state_at_one_half() -> None:
    detector = ready(NAC())
    assert detector.states(features(torch.zeros(2, 3)), "pooled").eq(0.5).all()


def test_log_edges() -> None:
    expected = [0, 0.312434, 0.404164, 0.459872, 0.5, 0.540128, 0.595836, 0.687566, 1.01, 1.2]
    assert bin_edges(10, "log").tolist() == pytest.approx(expected, abs=1e-6)
    fifty = bin_edges(50, "log")
    assert len(fifty) == 50 and (fifty.diff() > 0).all()
    assert fifty[1:4].tolist() == pytest.approx([0.119054, 0.183487, 0.227918], abs=1e-6)
    assert fifty[[23, 24, 25, 47, 48, 49]].tolist() == pytest.approx([0.494038, 0.5, 0.505962, 0.880946, 1.01, 1.2])


@pytest.mark.parametrize("bins", [3, 9, 51])
def test_odd_log_bins_are_refused(bins: int) -> None:
    with pytest.raises(InputError, match="even"):
        NAC({"pooled": NACLayer(bins=bins)})


def test_counts_and_scores() -> None:
    edges = bin_edges(10, "log")
    histogram = StateCounts(2, 9)
    histogram.update(bin_index(STATES, edges))
    counts = histogram.compute()
    assert counts.tolist() == [[0, 0, 0, 0, 3, 0, 0, 1, 0], [1, 0, 1, 0, 0, 0, 0, 2, 0]]
    assert layer_score(bin_index(QUERIES, edges), counts, 2).tolist() == [1.0, 0.25, 0.25]
    assert coverage(counts, 2).tolist() == pytest.approx([0.15, 0.20])


def test_uniform_counts_lose_a_state_of_one() -> None:
    edges = bin_edges(5, "uniform")
    histogram = StateCounts(2, 4)
    histogram.update(bin_index(STATES, edges))
    assert histogram.compute().tolist() == [[0, 0, 3, 0], [1, 1, 0, 2]]
    assert coverage(histogram.compute(), 2).tolist() == pytest.approx([0.2, 0.4])
    assert layer_score(bin_index(torch.tensor([[1.0, 0.9]]), edges), histogram.compute(), 2).tolist() == [0.5]


def test_no_image_is_lost() -> None:
    histogram = StateCounts(1, 49)
    histogram.update(bin_index(torch.tensor([[0.0], [0.5], [1.0], [1e-30], [0.999999]]), bin_edges(50, "log")))
    assert histogram.compute().sum() == 5


def test_uncounted_images_leave_no_trace() -> None:
    counts = torch.zeros(2, 9, dtype=torch.int64)
    count_bins(counts, bin_index(STATES, bin_edges(10, "log")), torch.tensor([True, False, False, True]))
    assert counts.tolist() == [[0, 0, 0, 0, 1, 0, 0, 1, 0], [1, 0, 1, 0, 0, 0, 0, 0, 0]]


def test_coverage_falls_with_samples() -> None:
    counts = torch.randint(0, 20, (30, 9), generator=torch.Generator().manual_seed(0))
    values = torch.stack([coverage(counts, o) for o in (1, 2, 5, 50, 5000)])
    assert (values.diff(dim=0) <= 0).all()
    assert torch.equal(coverage(counts, 1), (counts > 0).double().sum(1) / 10)


def test_agrees_with_the_formula() -> None:
    toy = Toy()
    layers = {"pooled": NACLayer(20, 10, 1.0), "block2": NACLayer(40, 20, 0.02)}
    detector = ready(NAC(layers), toy.info())
    assert detector.taps == detector.gradients == ("block2",) and detector.linear_head
    reads = detector.reads
    train, test = toy(toy.train(), reads), toy(toy.id_test(), reads)
    detector.update(train)
    scores = detector.score(test, detector.compute())

    def states(f: Features, name: str) -> np.ndarray:
        if name == "pooled":
            p = f.logits.double().softmax(1).numpy()
            z, g = f.pooled.double().numpy(), (p - 1 / CLASSES) @ toy.head.weight.double().numpy()
        else:
            z, g = (t[name].double().sum((2, 3)).numpy() for t in (f.maps, f.gradients))
        return 1 / (1 + np.exp(-layers[name].alpha * z * g))

    expected = []
    for name, layer in layers.items():
        half = np.log(np.linspace(1, np.sqrt(1000), layer.bins // 2)) / np.log(1000)
        edges = np.concatenate([half[:-1], [0.5], (1 - half[::-1])[1:-1], [1.01, 1.2]])
        seen, asked = states(train, name), states(test, name)
        phi = np.zeros_like(asked)
        for i in range(seen.shape[1]):
            counts, _ = np.histogram(seen[:, i], edges)
            phi[:, i] = np.minimum(counts[np.digitize(asked[:, i], edges) - 1] / layer.samples, 1)
        expected.append(phi.mean(1))
    assert scores.tolist() == pytest.approx(np.mean(expected, axis=0).tolist(), rel=1e-5)


def test_closed_form_is_autograd() -> None:
    """Sum times sum over the map that feeds the pooling is the pooled product times H * W."""
    toy = Toy()
    layers = {"pooled": NACLayer(alpha=36.0), "last": NACLayer(alpha=1.0)}
    detector = ready(NAC(layers), toy.info())
    batch = toy(toy.id_test(), detector.reads)
    torch.testing.assert_close(detector.states(batch, "last"), detector.states(batch, "pooled"), rtol=1e-4, atol=1e-6)


def test_mean_pooling_needs_the_square_of_the_positions() -> None:
    toy = Toy()
    total = ready(NAC({"block1": NACLayer(alpha=0.5)}), toy.info())
    mean = ready(NAC({"block1": NACLayer(alpha=0.5 * 36**2)}, pool="mean"), toy.info())
    batch = toy(toy.id_test(), total.reads)
    torch.testing.assert_close(mean.states(batch, "block1"), total.states(batch, "block1"), rtol=1e-4, atol=1e-7)


def test_subset_is_balanced_and_seeded() -> None:
    order = torch.randperm(166, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0] * 100 + [1] * 60 + [2] * 6)[order]
    chosen = balanced_subset(labels, 30, seed=0)
    assert labels[chosen].bincount().tolist() == [10, 10, 6]  # class 2 has no more
    assert balanced_subset(labels, 11, seed=0).sum() == 11
    assert torch.equal(chosen, balanced_subset(labels, 30, seed=0))
    assert not torch.equal(chosen, balanced_subset(labels, 30, seed=1))


def test_only_the_subset_is_counted() -> None:
    labels = torch.arange(40) % 2
    pooled = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    detector = ready(NAC(images=10), NetworkInfo(3, 2, HEAD, labels=labels))
    for rows in torch.arange(40).split(7):
        detector.update(features(pooled[rows], index=rows))
    fitted = detector.compute()
    summary = detector.summary(fitted)
    assert summary["images"] == 10
    coverage = summary["coverage.pooled"]
    assert len(coverage["at"]) == 1 + len(coverage["middle"]) == 50
    expected = np.quantile((fitted["counts.pooled"] / 50).numpy(), 0.9, axis=0)
    np.testing.assert_allclose(coverage["high"], expected, atol=1e-6)
    chosen, alone = balanced_subset(labels, 10, 0), ready(NAC())
    alone.update(features(pooled[chosen]))
    assert torch.equal(fitted["counts.pooled"], alone.compute()["counts.pooled"])


def test_refusals() -> None:
    detector = ready(NAC(images=10))
    with pytest.raises(InputError, match="no labels"):
        detector.update(features(torch.rand(4, 3), index=torch.arange(4)))
    with pytest.raises(InputError, match=r"'blok2'.*block2"):
        ready(NAC({"blok2": NACLayer()}), Toy().info())
    with pytest.raises(InputError, match="at least one layer"):
        NAC({})


def test_training_scores_show_over_fitting() -> None:
    """A coarse setting scores training images like test images; one that memorises separates those in the subset."""
    toy = Toy()

    def against_test(layer: NACLayer) -> dict[str, float]:
        detector = ready(NAC({"pooled": layer}, images=100), toy.info(toy.train().labels))
        reads = detector.reads
        for rows in torch.arange(400).split(90):
            detector.update(toy(toy.train(), reads).select(rows))
        fitted = detector.compute()
        assert [len(fitted[f"training_scores.{which}"]) for which in ("inside", "outside")] == [100, 300]
        id_scores = detector.score(toy(toy.id_test(200), reads), fitted)
        return {which: auroc(fitted[f"training_scores.{which}"], id_scores) for which in ("inside", "outside")}

    cautious, eager = against_test(NACLayer(20, 10, 1.0)), against_test(NACLayer(1, 1000, 1.0))
    assert cautious == pytest.approx({"inside": 0.5, "outside": 0.5}, abs=0.1)
    assert eager["inside"] > 0.9 and eager["outside"] == pytest.approx(0.5, abs=0.1)


def test_training_scores_are_the_scores() -> None:
    toy = Toy()
    detector = ready(NAC({"pooled": NACLayer(20, 10, 1.0), "block2": NACLayer(40, 20, 0.02)}), toy.info())
    train = toy(toy.train(), detector.reads)
    detector.update(train)
    fitted = detector.compute()
    assert "training_scores.outside" not in fitted
    torch.testing.assert_close(fitted["training_scores.inside"].sort()[0], detector.score(train, fitted).sort()[0])
