import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lightning_ood.data import Digits, Patches
from lightning_ood.errors import InputError


def test_the_split_is_stratified_disjoint_and_whole():
    train, test, whole = Digits("train"), Digits("test"), Digits("all")
    assert (len(train), len(test), len(whole)) == (1082, 361, 1443)
    counts = np.bincount(load_digits().target)[:8]
    assert np.array_equal(np.bincount(whole.targets), counts)
    assert np.abs(np.bincount(test.targets) - counts / 4).max() <= 0.5
    rows = [image.tobytes() for image in whole.pixels]
    assert sorted(image.tobytes() for part in (train, test) for image in part.pixels) == sorted(rows)


def test_out_of_distribution_digits_are_all_there():
    digits = Digits("all", (8, 9))
    assert len(digits) == 354
    assert digits.classes == ["8", "9"]
    assert np.bincount(digits.targets).tolist() == [174, 180]


def test_a_digit_does_not_depend_on_the_others_chosen():
    assert np.array_equal(Digits("test", (3,)).pixels, Digits("test").pixels[np.array(Digits("test").targets) == 3])


def test_an_image_is_the_upsampled_digit():
    image, label = Digits("all", (4,))[0]
    assert (image.size, image.mode, label) == ((32, 32), "RGB", 0)
    data = load_digits()
    small = data.images[data.target == 4][0] * 255 / 16
    blocks = (
        np.asarray(image)[:, :, 0].reshape(8, 4, 8, 4)[:, 1:3, :, 1:3].mean((1, 3))
    )  # bilinear: the middle of a cell
    assert np.corrcoef(blocks.ravel(), small.ravel())[0, 1] > 0.99
    assert abs(np.asarray(image).mean() - small.mean()) < 10


@pytest.mark.parametrize(("source", "images"), [("photographs", 7), ("textures", 4)])
def test_patches_are_many_different_and_the_same_each_time(source, images):
    patches = Patches(source)
    assert len(patches) == 400
    assert patches.pixels.shape == (400, 32, 32, 3)
    counts = np.bincount(patches.targets, minlength=images)
    assert len(patches.classes) == images
    assert counts.max() - counts.min() <= 1
    assert len({patch.tobytes() for patch in patches.pixels}) > 390
    assert patches.pixels.std(axis=(1, 2, 3)).min() > 1  # no patch is blank
    assert np.array_equal(patches.pixels, Patches(source).pixels)
    assert not np.array_equal(patches.pixels, Patches(source, seed=1).pixels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Digits("val"), "train, test or all"),
        (lambda: Digits("all", (8, 10)), "0 to 9"),
        (lambda: Digits("all", (8, 8)), "different"),
        (lambda: Patches("faces"), "photographs or textures"),
        (lambda: Patches("textures", count=10**4), "smaller count"),
        (lambda: Patches("textures", count=0), "at least 1"),
    ],
)
def test_wrong_arguments_say_what_exists(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(("library", "make"), [("sklearn", Digits), ("skimage", Patches)])
def test_a_missing_library_is_one_sentence(library, make, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=r"pip install 'lightning-ood\[digits\]'"):
        make()
