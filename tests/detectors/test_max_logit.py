import torch

from lightning_ood.detectors.max_logit import MaxLogit


def test_value() -> None:
    assert MaxLogit().of_logits(torch.tensor([[3.0, 2.0], [-4.0, -1.0]])).tolist() == [3.0, -1.0]


def test_follows_a_constant_on_the_logits() -> None:
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(MaxLogit().of_logits(logits + 2), MaxLogit().of_logits(logits) + 2)
