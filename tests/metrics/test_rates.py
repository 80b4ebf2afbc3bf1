import os
import socket

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from lightning_ood.errors import InputError
from lightning_ood.metrics.rates import (
    METRICS,
    TRAPEZOID,
    auroc,
    compare,
    count_95,
    fpr95,
    fpr95_ood_positive,
    ood_metrics,
)
from lightning_ood.metrics.streaming import OODMetrics


def reference(id_scores, ood_scores):
    """The same from scikit-learn, and FPR95 from the definition."""
    scores = np.concatenate([id_scores, ood_scores])
    is_id = np.r_[np.ones(len(id_scores)), np.zeros(len(ood_scores))]
    fpr, tpr, _ = roc_curve(1 - is_id, -scores, drop_intermediate=False)
    kept = sorted(id_scores, reverse=True)[-(-95 * len(id_scores) // 100) - 1]
    return {
        "auroc": roc_auc_score(is_id, scores),
        "fpr95": np.mean([y >= kept for y in ood_scores]),
        "fpr95_ood_positive": fpr[np.flatnonzero(tpr >= 0.95 - 1e-12)[0]],
        "aupr_in": average_precision_score(is_id, scores),
        "aupr_out": average_precision_score(1 - is_id, -scores),
    }


def by_trapezoids(id_scores, ood_scores):
    """OpenOOD's AUPR: ``auc(recall, precision)`` of scikit-learn's curve."""
    scores = np.concatenate([id_scores, ood_scores])
    is_id = np.r_[np.ones(len(id_scores)), np.zeros(len(ood_scores))]
    curves = [precision_recall_curve(positive, sign * scores) for positive, sign in ((is_id, 1), (1 - is_id, -1))]
    return {name: auc(recall, precision) for name, (precision, recall, _) in zip(TRAPEZOID, curves, strict=True)}


@pytest.mark.parametrize("ties", [False, True])
def test_agrees_with_scikit_learn(ties):
    rng = np.random.default_rng(0)
    for _ in range(100):
        n, m = rng.integers(1, 60, 2)
        id_scores, ood_scores = rng.normal(30, 10, n), rng.normal(20, 10, m)
        if ties:
            id_scores, ood_scores = id_scores.round(-1), ood_scores.round(-1)
        values = ood_metrics(id_scores, ood_scores)
        assert tuple(values) == METRICS
        assert values == pytest.approx(reference(id_scores, ood_scores), abs=1e-12)
        trapezoid = compare(id_scores, ood_scores).values(TRAPEZOID)
        assert trapezoid == pytest.approx(by_trapezoids(id_scores, ood_scores), abs=1e-12)


def test_the_two_conventions_of_fpr95():
    id_scores, ood_scores = [0.9] * 95 + [0.1] * 5, [0.5] * 90 + [0.95] * 10
    assert fpr95(id_scores, ood_scores) == pytest.approx(0.10)
    assert fpr95_ood_positive(id_scores, ood_scores) == 1.0
    steps = np.arange(1, 101) / 100  # scikit-learn's thinned curve would say 1.00
    assert fpr95_ood_positive(steps, steps) == pytest.approx(0.95)
    assert fpr95(steps, steps) == pytest.approx(0.95)


def test_hand_values():
    values = ood_metrics([3.0, 2.0, 2.0], [2.0, 1.0])
    assert values["auroc"] == pytest.approx((2 + 1.5 + 1.5) / 6)
    assert values["fpr95"] == 0.5  # the threshold is 2, and a tie is accepted
    assert values["fpr95_ood_positive"] == pytest.approx(2 / 3)
    assert values["aupr_in"] == pytest.approx((1 + 3 / 4 + 3 / 4) / 3)
    assert values["aupr_out"] == pytest.approx((1 + 2 / 4) / 2)


def test_count_95_is_exact():
    assert [count_95(n) for n in (1, 19, 20, 21, 100, 1000, 50_000)] == [1, 19, 19, 20, 95, 950, 47_500]


def test_raw_scores_are_not_squashed():
    # a float32 sigmoid of these is 1.0 throughout
    torch.manual_seed(0)
    id_scores, ood_scores = torch.randn(500) * 10 + 70, torch.randn(500) * 10 + 60
    assert auroc(id_scores, ood_scores) == pytest.approx(auroc(id_scores / 1e3, ood_scores / 1e3))
    assert auroc(id_scores, ood_scores) > 0.7


def test_only_the_order_counts_and_swapping_mirrors():
    rng = np.random.default_rng(1)
    id_scores, ood_scores = rng.normal(1, 1, 300).round(1), rng.normal(0, 1, 200).round(1)
    values = ood_metrics(id_scores, ood_scores)
    assert ood_metrics(np.exp(id_scores), np.exp(ood_scores)) == values
    mirrored = ood_metrics(-ood_scores, -id_scores)  # what was OOD is now the positive class
    assert mirrored["auroc"] == pytest.approx(values["auroc"])
    assert mirrored["fpr95"] == pytest.approx(values["fpr95_ood_positive"])
    assert mirrored["aupr_in"] == pytest.approx(values["aupr_out"])


def test_batches_merge_and_half_precision():
    torch.manual_seed(0)
    id_scores, ood_scores = torch.randn(101) + 1, torch.randn(57)
    metric, other = OODMetrics(), OODMetrics()
    for batch in id_scores.split(10):
        metric.update(id_scores=batch)
    other.update(ood_scores=ood_scores[:1])
    other.update(ood_scores=ood_scores[1:])
    metric.merge_state(other)
    values = metric.compute()
    assert {name: value.item() for name, value in values.items()} == ood_metrics(id_scores, ood_scores)
    metric.reset()
    metric.update(id_scores=id_scores.bfloat16(), ood_scores=ood_scores.bfloat16())
    assert metric.compute()["auroc"].item() == auroc(id_scores.bfloat16(), ood_scores.bfloat16())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_and_missing_scores_are_refused(bad):
    metric = OODMetrics()
    with pytest.raises(InputError, match="OOD score at position 1"):
        metric.update(ood_scores=torch.tensor([0.0, bad]))
    metric.update(id_scores=torch.ones(3))
    with pytest.raises(InputError, match="no OOD scores"):
        metric.compute()
    with pytest.raises(InputError, match="1 of 2 ID scores not finite"):
        compare([1.0, bad], [0.0])


def _rank(rank: int, port: int, expected: dict) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    metric = OODMetrics()
    if rank == 0:
        metric.update(torch.tensor([3.0, 2.0, 2.0]), torch.tensor([2.0]))
        metric.update(ood_scores=torch.tensor([1.0]))
    assert {name: value.item() for name, value in metric.compute().items()} == expected
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_process_without_images():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_rank, (port, ood_metrics([3.0, 2.0, 2.0], [2.0, 1.0])), nprocs=2)
