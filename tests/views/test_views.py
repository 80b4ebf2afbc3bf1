import pytest
import torch

from lightning_ood.errors import InputError
from lightning_ood.views import Blur, Crop, Invert, Jigsaw, Noise, PhaseScramble, Raw, Rotate, View

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


VIEWS = [Jigsaw(), Rotate(), Rotate(turns=1), Blur(), Noise(), Invert(), PhaseScramble(), Crop()]
IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)).cumsum(3) / 4


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_every_view_depends_on_the_image_alone(view: View) -> None:
    """Not on its batch, its order or earlier calls; it leaves its input as it is and gives images of the same kind."""
    index, before = torch.tensor([7, 3, 900, 12, 5, 1]), IMAGES.clone()
    out = view(IMAGES, index)
    assert out.shape == IMAGES.shape and out.dtype == IMAGES.dtype and out.isfinite().all()
    assert torch.equal(IMAGES, before) and not torch.equal(out, IMAGES)
    for rows in (torch.tensor([4]), torch.tensor([5, 0, 2])):
        torch.testing.assert_close(view(IMAGES[rows], index[rows]), out[rows], rtol=1e-5, atol=1e-5)
    assert hash(view) == hash(type(view)(**vars(view))) and view == type(view)(**vars(view))


@pytest.mark.parametrize("view", [Jigsaw(), Rotate(), Noise(), PhaseScramble(), Crop()], ids=str)
def test_what_is_drawn_differs_between_images(view: View) -> None:
    same = IMAGES[:1].expand(40, -1, -1, -1)
    assert view(same, torch.arange(40)).flatten(1).round(decimals=4).unique(dim=0).shape[0] >= 3


def test_rotation_keeps_every_pixel() -> None:
    out = Rotate(1)(SIX, torch.tensor([0]))
    assert torch.equal(out[0, 0], SIX[0, 0].rot90(1))
    turned = Rotate()(SIX.expand(60, 1, 6, 6), torch.arange(60))
    turns = [next(k for k in range(4) if torch.equal(t[0], SIX[0, 0].rot90(k))) for t in turned]
    assert set(turns) == {1, 2, 3}
    tall = torch.arange(12.0).view(1, 1, 4, 3)
    assert torch.equal(Rotate()(tall, torch.tensor([5])), tall.rot90(2, dims=(2, 3)))


def test_blur_is_the_gaussian_kernel() -> None:
    point = torch.zeros(1, 1, 33, 33)
    point[..., 16, 16] = 1
    out = Blur(share=2 / 33)(point, torch.tensor([0]))[0, 0].double()
    offsets = torch.arange(-6, 7).double()
    kernel = (-(offsets**2) / 8).exp()
    torch.testing.assert_close(out[10:23, 10:23], torch.outer(kernel, kernel) / kernel.sum() ** 2, rtol=1e-4, atol=1e-7)
    flat = torch.full((1, 3, 8, 8), 2.5)
    torch.testing.assert_close(Blur(0.5)(flat, torch.tensor([0])), flat)


def test_noise_is_gaussian() -> None:
    out = Noise(std=2.0)(torch.zeros(20, 3, 32, 32), torch.arange(20)).flatten()
    assert out.mean().item() == pytest.approx(0, abs=0.03) and out.std().item() == pytest.approx(2, rel=0.02)
    assert (out.abs() < 2).double().mean().item() == pytest.approx(0.6827, abs=0.01)
    both = Noise()(torch.zeros(2, 1, 8, 8), torch.tensor([1, 2]))
    assert not torch.equal(both[0], both[1])


def test_scrambling_keeps_the_spectrum_and_the_colours() -> None:
    images = torch.randn(4, 3, 16, 18, generator=torch.Generator().manual_seed(1))
    out = PhaseScramble()(images, torch.arange(4))
    inner = (slice(None), slice(None), slice(1, 8), slice(1, 9))  # without the frequencies that are their own mirror
    torch.testing.assert_close(torch.fft.rfft2(out).abs()[inner], torch.fft.rfft2(images).abs()[inner])
    torch.testing.assert_close(out.mean((2, 3)), images.mean((2, 3)))
    grey = images[:, :1].expand(-1, 3, -1, -1)
    scrambled = PhaseScramble()(grey, torch.arange(4))
    torch.testing.assert_close(scrambled[:, 0], scrambled[:, 2])


def test_crop_enlarges_a_part() -> None:
    """Of a ramp a part of 3/8 has 3/8 of the slope, and lies within the image."""
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    for index in range(20):
        row = Crop(0.375)(ramp, torch.tensor([index]))[0, 0, 16]
        inside = row[4:-4]
        torch.testing.assert_close(inside.diff(), torch.full_like(inside.diff(), 0.375), rtol=1e-3, atol=1e-3)
        assert row.min() >= 0 and row.max() <= 31


def test_raw_is_the_image_before_normalisation() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    normal = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    index = torch.arange(2)
    torch.testing.assert_close(Raw(mean, std)(normal, index), images)
    jigsaw = Jigsaw(3, border=True)
    both = Raw(mean, std, jigsaw)(normal, index)
    torch.testing.assert_close(both, jigsaw(images, index))
    assert (both[:, :, 30:] == 0).all() and Raw(mean, std) != Raw(mean, std, jigsaw), "the border is black"
    assert len({Raw(mean, std, jigsaw), Raw(mean, std, Jigsaw(3, border=True))}) == 1
