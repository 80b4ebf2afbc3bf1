import pytest
import torch

from lightning_ood.errors import InputError
from lightning_ood.views import Jigsaw, View

SIX = torch.arange(36.0).view(1, 1, 6, 6)
SEVEN = torch.arange(1.0, 50).view(1, 1, 7, 7)


def test_known_order() -> None:
    out = Jigsaw(3).shuffle(SIX, torch.tensor([[8, 1, 2, 3, 4, 5, 6, 7, 0]]))[0, 0]
    assert out[0].tolist() == [28, 29, 2, 3, 4, 5] and out[5].tolist() == [30, 31, 32, 33, 6, 7]


def test_remainder_stays_or_is_black() -> None:
    identity = torch.arange(9)[None]
    assert torch.equal(Jigsaw(3).shuffle(SEVEN, identity), SEVEN)
    border = Jigsaw(3, border=True).shuffle(SEVEN, identity)
    assert torch.equal(border[..., :6, :6], SEVEN[..., :6, :6])
    assert border[..., 6, :].eq(0).all() and border[..., :, 6].eq(0).all()
    assert (Jigsaw(3, border=True)(torch.ones(1, 1, 32, 32), torch.tensor([0])) == 0).sum() == 124


def test_pixels_are_kept_and_channels_stay_together() -> None:
    images = torch.rand(5, 3, 32, 35, generator=torch.Generator().manual_seed(0))
    images[:, 1] = images[:, 0] + 1
    out = Jigsaw(3)(images, torch.arange(5))
    assert torch.equal(out.flatten(2).sort().values, images.flatten(2).sort().values)
    assert torch.equal(out[:, 1], out[:, 0] + 1)
    assert not torch.equal(out, images)


def test_belongs_to_the_image_and_not_to_its_batch() -> None:
    images, index = torch.rand(8, 3, 9, 9, generator=torch.Generator().manual_seed(0)), torch.arange(100, 108)
    out = Jigsaw()(images, index)
    order = torch.tensor([5, 0, 7])
    assert torch.equal(Jigsaw()(images[order], index[order]), out[order])
    assert torch.equal(Jigsaw()(images[3:4], index[3:4]), out[3:4])
    assert not torch.equal(Jigsaw(seed=1)(images, index), out)


def test_permutations_are_uniform() -> None:
    """Each of four tiles lands at each place equally often."""
    tiles = torch.arange(4.0).view(1, 1, 2, 2).expand(8000, 1, 2, 2)
    places = Jigsaw(2)(tiles, torch.arange(8000)).flatten(1).long()
    counts = torch.stack([places[:, i].bincount(minlength=4) for i in range(4)])
    assert (counts / 8000 - 0.25).abs().max() < 0.02


def test_is_a_value() -> None:
    assert Jigsaw(3, 1) == Jigsaw(3, 1) and len({Jigsaw(3), Jigsaw(3), Jigsaw(2)}) == 2
    assert isinstance(Jigsaw(), View)


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(InputError, match="2x8 pixels has no 3x3 tiles"):
        Jigsaw(3)(torch.zeros(1, 3, 2, 8), torch.tensor([0]))
