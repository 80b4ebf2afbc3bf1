"""Features and heads of arrays, as people keep embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lightning_ood import DetectorSuite, Features, Head, InputError, NetworkInfo
from lightning_ood.detectors import KNN, ViM
from lightning_ood.features import Reads
from lightning_ood.testing.toy import Toy

TOY = Toy()
IMAGES = TOY.train(60)
BATCH = TOY(IMAGES, Reads(head=True))


def arrays(features: Features) -> Features:
    assert features.head is not None
    head = Head(features.head.weight.double().numpy(), features.head.bias.double().numpy())  # type: ignore[arg-type]
    logits, pooled = features.logits.double().numpy(), features.pooled.double().numpy()
    labels = None if features.labels is None else features.labels.numpy().astype(np.int32)
    return Features(logits, pooled, head, labels=labels)  # type: ignore[arg-type]


def scored(parts: list[Features]) -> torch.Tensor:
    suite = DetectorSuite({"knn": KNN(k=5, bank_size=20), "vim": ViM()})
    head = parts[0].head
    assert head is not None
    suite.setup(NetworkInfo(head.num_features, head.num_classes, head))
    for part in parts:
        suite.update(part)
    assert suite.compute() == {}
    return suite.score(parts[0].select(slice(0, 10)))


def test_arrays_of_any_type_score_as_tensors() -> None:
    made = arrays(BATCH)
    assert made.logits.dtype == made.pooled.dtype == torch.float32
    assert made.labels is not None and made.labels.dtype == torch.int64
    torch.testing.assert_close(scored([made]), scored([replace(BATCH, index=None)]))


def test_batches_without_index_are_counted() -> None:
    """A bank of 20 holds the same images, however they are divided into batches."""
    plain = replace(BATCH, index=None)
    halves = [plain.select(slice(0, 30)), plain.select(slice(30, None))]
    whole = replace(BATCH, index=torch.arange(len(BATCH)))
    assert torch.equal(scored(halves), scored([whole]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"logits": np.zeros(3)}, r"Features.logits has the shape \[3\]: give it 2 dimensions"),
        ({"pooled": [["a"]]}, "Features.pooled: give an array"),
        ({"labels": np.zeros((3, 1))}, r"Features.labels has the shape \[3, 1\]"),
    ],
)
def test_what_is_no_array_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Features(**{"logits": np.zeros((3, 2)), "pooled": np.zeros((3, 5)), **values})
