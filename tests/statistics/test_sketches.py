import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_ood.statistics.quantile import QuantileSketch, quantile
from lightning_ood.statistics.sample import Sample

QS = torch.tensor([0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.999, 1.0])


def counts_of(*batches: Tensor) -> Tensor:
    sketch = QuantileSketch()
    for batch in batches:
        sketch.update(batch)
    return sketch.compute()


def draw(kind: str) -> Tensor:
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    return {
        "normal": values,
        "heavy": (4 * values).exp(),
        "rectified": values.relu(),
        "tiny": values * 1e-20,
        "negative": -values.abs() - 3,
        "constant": torch.full_like(values, 2.7),
    }[kind]


@pytest.mark.parametrize("kind", ["normal", "heavy", "rectified", "tiny", "negative", "constant"])
def test_quantiles_are_within_a_bin_of_numpys(kind: str) -> None:
    values = draw(kind)
    found = quantile(counts_of(values), QS).numpy()
    exact = np.quantile(values.double().numpy(), QS.double().numpy())
    np.testing.assert_allclose(found, exact, rtol=2**-11, atol=1e-37)


def test_few_values_are_interpolated() -> None:
    values = torch.arange(1.0, 11)
    assert quantile(counts_of(values), 0.9).item() == pytest.approx(9.1, rel=5e-4)
    assert quantile(counts_of(values), 0.95).item() == pytest.approx(9.55, rel=5e-4)
    assert quantile(counts_of(torch.tensor([3.0])), 0.3).item() == pytest.approx(3, rel=5e-4)


def test_batches_order_and_type_leave_no_trace() -> None:
    values = draw("normal")
    assert torch.equal(counts_of(values), counts_of(*values.flip(0).view(4, 50, 100)))
    assert torch.equal(counts_of(values), counts_of(values.double()))


def test_merge_is_one_pass_even_after_compute() -> None:
    values = draw("normal")
    first, second = QuantileSketch(), QuantileSketch()
    first.update(values[:700])
    first.compute()
    second.update(values[700:])
    first.merge_state(second)
    first.merge_state(QuantileSketch())
    assert torch.equal(first.compute(), counts_of(values))


def test_nothing_counted_has_no_quantile() -> None:
    assert quantile(QuantileSketch().compute(), QS).isnan().all()


def test_zero_and_signs_keep_their_order() -> None:
    counts = counts_of(torch.tensor([-2.0, -1.0, -0.0, 0.0, 1.0, 2.0, 1e38]))
    ordered = quantile(counts, torch.linspace(0, 1, 7))
    torch.testing.assert_close(ordered, torch.tensor([-2, -1, 0, 0, 1, 2, 1e38]).double(), rtol=5e-4, atol=1e-37)


ROWS = torch.arange(1000.0)[:, None] * torch.ones(2)
INDEX = torch.arange(1000)


def sampled(order: Tensor, batch: int, size: int = 50, seed: int = 0) -> Tensor:
    sample = Sample(size, 2, seed)
    for rows in order.split(batch):
        sample.update(ROWS[rows], INDEX[rows])
    return sample.compute()


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_sample_depends_on_images_and_seed_alone(batch: int) -> None:
    shuffled = torch.randperm(1000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(sampled(shuffled, batch), sampled(INDEX, 1000))
    assert not torch.equal(sampled(shuffled, batch, seed=1), sampled(INDEX, 1000))


def test_sample_is_uniform_and_without_repetition() -> None:
    rows = torch.cat([sampled(INDEX, 1000, seed=seed)[:, 0] for seed in range(40)])
    assert rows.mean().item() == pytest.approx(499.5, abs=20)  # 2000 draws: standard error 6.5
    assert sampled(INDEX, 100)[:, 0].unique().numel() == 50


def test_small_streams_are_kept_whole() -> None:
    kept = sampled(INDEX[:20], 6)
    assert torch.equal(kept[:, 0].sort().values, torch.arange(20.0))
    assert Sample(5, 3).compute().shape == (0, 3)
    sample = Sample(1000, 2)
    sample.update(ROWS[:20], INDEX[:20])
    assert sample.draw().untyped_storage().nbytes() == 20 * 2 * 4, "a file would hold the room that is left"


def test_samples_merge_as_one_pass() -> None:
    shares = [Sample(50, 2) for _ in range(3)]  # the last sees nothing
    for share, rows in zip(shares, (INDEX[:30], INDEX[30:]), strict=False):
        share.update(ROWS[rows], INDEX[rows])
    shares[2].merge_state(shares[0])
    shares[2].merge_state(shares[1])
    assert torch.equal(shares[2].compute(), sampled(INDEX, 1000))


def test_sketches_go_on_after_compute_and_forget_on_reset() -> None:
    sample = Sample(50, 2)
    sample.update(ROWS[:500], INDEX[:500])
    sample.compute()
    sample.update(ROWS[500:], INDEX[500:])
    assert torch.equal(sample.compute(), sampled(INDEX, 1000))
    sample.reset()
    assert len(sample.compute()) == 0
