from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_ood.detectors.max_logit import MaxLogit
from lightning_ood.detectors.rankfeat import RankFeat
from lightning_ood.errors import InputError
from lightning_ood.features import Head, NetworkInfo
from lightning_ood.testing import check_detector
from tests.helpers.toys import features


def batch(maps, head):
    return replace(features(maps.flatten(2).mean(2), head), maps={"last": maps})


def test_worked_example():
    # diag(3, 1) at two positions: the rank-1 part is the first channel, of mean 1.5. What is left: (0, .5).
    head = Head(torch.tensor([[1.0, 0], [0, 4]]), torch.tensor([0.0, 1]))
    maps = torch.tensor([[[3.0, 0], [0, 1]]])
    torch.testing.assert_close(RankFeat().logits(batch(maps, head), {}), torch.tensor([[0.0, 3]]))
    assert RankFeat(base=MaxLogit()).score(batch(maps, head), {}).item() == pytest.approx(3)


def test_a_map_of_rank_one_leaves_the_bias():
    maps = (torch.rand(3, 5, 1) * torch.rand(3, 1, 9)).reshape(3, 5, 3, 3)
    bias = torch.tensor([1.0, -2])
    logits = RankFeat().logits(batch(maps, Head(torch.randn(2, 5), bias)), {})
    torch.testing.assert_close(logits, bias.expand(3, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shift", [0.0, -0.3])
def test_reference(shift):
    draw = torch.Generator().manual_seed(0)
    maps = torch.rand(4, 6, 3, 3, generator=draw) + shift
    head = Head(torch.randn(3, 6, generator=draw), torch.randn(3, generator=draw))
    expected = []
    for a in maps.flatten(2).double().numpy():
        u, s, vt = np.linalg.svd(a, full_matrices=False)
        left = (a - s[0] * np.outer(u[:, 0], vt[0])).mean(1)
        expected.append(head.weight.double().numpy() @ left + head.bias.double().numpy())
    np.testing.assert_allclose(RankFeat(200).logits(batch(maps, head), {}), np.stack(expected), rtol=1e-3, atol=1e-4)


def test_refusals():
    with pytest.raises(InputError, match="the authors take 20"):
        RankFeat(0)
    head = Head(torch.ones(2, 5), torch.zeros(2))
    info = NetworkInfo(5, 2, head, {"last": torch.Size((4, 3, 3))})
    with pytest.raises(InputError, match="4 channels and 5 units"):
        RankFeat().setup(info)


def test_contract():
    check_detector(lambda: RankFeat(5, MaxLogit()), separates=False)
