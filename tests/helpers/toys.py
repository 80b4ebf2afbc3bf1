"""Small features, set by hand or drawn at random, for the tests of the baselines."""

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector
from lightning_ood.features import Features, Head, NetworkInfo

HEAD = Head(torch.tensor([[1.0, 0, -1], [0, 2, 1]]), torch.tensor([0.5, -0.5]))
IMAGE = torch.tensor([[3.0, 1, 0.5]])  # logits 3, 2


def features(pooled: Tensor, head: Head = HEAD, labels: Tensor | None = None) -> Features:
    return Features(head(pooled), pooled, head, labels=labels, index=torch.arange(len(pooled)))


def given(logits: Tensor, pooled: Tensor | None = None, labels: Tensor | None = None) -> Features:
    """Features whose logits are not those of a head."""
    pooled = torch.ones(len(logits), 2) if pooled is None else pooled
    return Features(logits, pooled, labels=labels, index=torch.arange(len(logits)))


def setup_for(train: Features) -> NetworkInfo:
    return NetworkInfo(train.pooled.shape[1], train.logits.shape[1], train.head, labels=train.labels)


def fit(detector: Detector, train: Features, batch: int = 37) -> dict[str, Tensor]:
    detector.setup(setup_for(train))
    for start in range(0, len(train), batch):
        detector.update(train.select(slice(start, start + batch)))
    return detector.compute()


def fitted_score(detector: Detector, train: Features, test: Features) -> Tensor:
    return detector.score(test, fit(detector, train))


def random_features(n: int = 300, width: int = 24, classes: int = 6, seed: int = 0) -> tuple[Features, Features]:
    """Rectified training features in clusters, most of them classified correctly, and test features of both kinds."""
    draw = torch.Generator().manual_seed(seed)
    centers = 2 * torch.rand(classes, width, generator=draw)
    head = Head(
        centers - 1 + 0.7 * torch.randn(classes, width, generator=draw), 0.3 * torch.randn(classes, generator=draw)
    )
    labels = torch.randint(classes, (n,), generator=draw)
    train = (centers[labels] + 0.5 * torch.randn(n, width, generator=draw)).relu()
    test = 1.5 * torch.randn(50, width, generator=draw).relu()
    return features(train, head, labels), features(test, head)
