import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_ood.data import load_image, to_image
from lightning_ood.data.images import ImageError, to_rgb
from lightning_ood.errors import InputError

COLOUR = (200, 30, 90)


@pytest.mark.parametrize(
    ("mode", "value", "ending", "expected"),
    [
        ("RGB", COLOUR, "png", COLOUR),
        ("L", 77, "png", (77, 77, 77)),
        ("LA", (77, 10), "png", (77, 77, 77)),
        ("RGBA", (*COLOUR, 10), "png", COLOUR),  # alpha is dropped, not blended
        ("1", 1, "png", (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), "tif", (255, 0, 0)),
        ("I;16", 257 * 100, "png", (100, 100, 100)),
        ("I;16", 65535, "tif", (255, 255, 255)),
        ("I", 257 * 100, "tif", (100, 100, 100)),
        ("F", 0.6, "tif", (153, 153, 153)),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (7, 3)])
def test_every_mode_becomes_rgb_of_the_same_colour(tmp_path, mode, value, ending, expected, size):
    path = tmp_path / f"image.{ending}"
    Image.new(mode, size, value).save(path)
    image = load_image(path)
    assert image.mode == "RGB"
    assert image.size == size
    assert np.abs(np.asarray(image).astype(int) - expected).max() <= 1


@pytest.mark.filterwarnings("error")
def test_palette_with_transparency_keeps_its_colours(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*COLOUR, 1, 2, 3])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png", transparency=bytes([0, 128]))
    assert np.asarray(load_image(tmp_path / "palette.png")).tolist() == [[list(COLOUR), [1, 2, 3]]]


def test_cmyk_jpeg_is_read(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = np.asarray(load_image(tmp_path / "a.jpg")).mean((0, 1))
    assert red > 240 > 15 > max(green, blue)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    grey = np.asarray(load_image(tmp_path / "ramp.png"))[:, :, 0]
    assert np.abs(grey - ramp / 257).max() <= 0.5


@pytest.mark.parametrize("value", [-1, 70000])
def test_integers_of_unknown_range_are_refused(value):
    with pytest.raises(ValueError, match="outside 16 bits"):
        to_rgb(Image.new("I", (2, 2), value))


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "gif", "bmp", "webp"])
@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_a_broken_file_is_named(tmp_path, ending, keep):
    path = tmp_path / f"broken.{ending}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    with pytest.raises(InputError, match=rf"broken\.{ending}: cannot read this image \(.+bad_images skip"):
        load_image(path)


def test_an_error_keeps_only_its_message_after_a_worker_process():
    error = ImageError(
        "Caught ImageError in worker 0.\nTraceback …\nlightning_ood.data.images.ImageError: a.jpg: bad\n"
    )
    assert str(error) == "a.jpg: bad"
    assert str(pickle.loads(pickle.dumps(error))) == "a.jpg: bad"


def test_arrays_and_tensors_give_back_their_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    chw = torch.from_numpy(pixels).permute(2, 0, 1)
    for item in (pixels, Image.fromarray(pixels), chw, chw / 255, chw.double() / 255, pixels / np.float32(255)):
        assert np.array_equal(np.asarray(to_image(item)), pixels)
    grey = pixels[:, :, 0]
    for item in (grey, grey[:, :, None], torch.from_numpy(grey.copy()), torch.from_numpy(grey.copy())[None] / 255):
        assert np.array_equal(np.asarray(to_image(item)), np.repeat(grey[:, :, None], 3, axis=2))
    alpha = np.concatenate([pixels, pixels[:, :, :1]], axis=2)
    assert np.array_equal(np.asarray(to_image(alpha)), pixels)
    assert np.asarray(to_image(torch.tensor([[True, False]])))[:, :, 0].tolist() == [[255, 0]]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (torch.full((3, 4, 4), 1.5), r"\[1.5, 1.5\], outside \[0, 1\].*without its normalisation"),
        (torch.full((3, 4, 4), -0.1), "without its normalisation"),
        (torch.full((3, 4, 4), float("nan")), "without its normalisation"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
        (torch.zeros(8, 8, 3), r"\[8, 8, 3\].*\[C, H, W\]"),
        (np.zeros((3, 4, 9), np.uint8), r"\[3, 4, 9\].*\[H, W, C\]"),
        (torch.zeros(3, 0, 4), "shape"),
        ("a.png", "not str"),
    ],
)
def test_what_is_no_image_is_refused(item, message):
    with pytest.raises(InputError, match=message):
        to_image(item)
