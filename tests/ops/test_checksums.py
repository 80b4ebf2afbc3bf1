"""Checksums see every value, name, type and shape."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import nn

from lightning_ood.ops.checksums import changed, checksums, digest, weights_hash


def test_hash_is_of_names_types_shapes_and_bytes() -> None:
    network = nn.Linear(2, 1)
    nn.init.ones_(network.weight)
    nn.init.zeros_(network.bias)
    ones, zero = np.ones((1, 2), np.float32).tobytes(), np.zeros(1, np.float32).tobytes()
    text = b"bias torch.float32 (1,)\n" + zero + b"weight torch.float32 (1, 2)\n" + ones
    assert weights_hash(network) == hashlib.sha256(text).hexdigest()


def test_hash_sees_each_weight_and_buffer() -> None:
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    seen = {weights_hash(network)}
    with torch.no_grad():
        network[0].weight[2, 1] += 1e-6
        seen.add(weights_hash(network))
        network[1].running_mean[0] = 1e-6
        seen.add(weights_hash(network))
        network.to(torch.bfloat16)
        seen.add(weights_hash(network))
    assert len(seen) == 4


def test_a_change_is_named() -> None:
    def content() -> dict[str, Any]:
        return {
            "fits": {"a": {"mean": torch.zeros(2, 3)}, "b": {}},
            "spec": ["x", 1, None, (0.1, True)],
            "state": {0: torch.tensor(1, dtype=torch.bfloat16)},
        }

    stored = checksums(content())
    assert changed(content(), stored) == [] and digest(content()) == digest(content())
    changes: dict[str, Any] = {
        "fits/a/mean": lambda c: c["fits"]["a"].update(mean=torch.zeros(3, 2)),
        "fits/b": lambda c: c["fits"].pop("b"),
        "spec/1": lambda c: c["spec"].__setitem__(1, 1.0),
        "spec/3/1": lambda c: c["spec"].__setitem__(3, (0.1, 1)),
        "state/0": lambda c: c["state"].update({0: torch.tensor(1.0)}),
        "new": lambda c: c.update(new=0),
    }
    for name, change in changes.items():
        other = content()
        change(other)
        assert changed(other, stored) == [name] and digest(other) != digest(content())
    other = content()
    other["fits"]["a"]["mean"][1, 2] = -0.0
    assert changed(other, stored) == ["fits/a/mean"], "bytes, not values"
