import os
import pickle
import struct
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_ood.data import images as module
from lightning_ood.data import load_image, to_image
from lightning_ood.data.images import ImageError, darkness, to_rgb
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


def grey(path):
    return np.asarray(load_image(path))[:, :, 0].tolist()


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_deep_tiff_whose_zero_is_white_is_inverted(tmp_path, compression):
    pixels = np.array([[0, 257 * 100, 65535]], np.uint16)
    Image.fromarray(pixels).save(tmp_path / "white.tif", tiffinfo={262: 0}, compression=compression)
    assert grey(tmp_path / "white.tif") == [[255, 155, 0]]
    Image.fromarray(pixels).save(tmp_path / "black.tif", compression=compression)
    assert grey(tmp_path / "black.tif") == [[0, 100, 255]]
    Image.fromarray(np.array([[0, 0.6, 1]], np.float32)).save(tmp_path / "float.tif", tiffinfo={262: 0})
    assert grey(tmp_path / "float.tif") == [[255, 102, 0]]


def test_a_tiff_of_twelve_bits_is_scaled(tmp_path):
    entries = [(256, 3, 2), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 122), (277, 3, 1)]
    entries += [(278, 3, 1), (279, 4, 3)]
    content = b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little")
    for tag, kind, value in entries:
        content += struct.pack("<HHII", tag, kind, 1, value)
    content += bytes(4)
    content += bytes(122 - len(content)) + bytes([0xFF, 0xF6, 0x66])  # values 4095 and 0x666 = 1638
    (tmp_path / "twelve.tif").write_bytes(content)
    assert grey(tmp_path / "twelve.tif") == [[255, 102]]


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        (np.array([[0, 255]], np.int32), "mode I, and no value is above 255 of 65535"),
        (np.array([[0, 4095]], np.uint16), "mode I;16, and no value is above 4095 of 65535"),
        (np.array([[0, 40000]], np.uint16), ""),
        (np.array([[0, 0]], np.uint16), ""),
    ],
)
def test_a_deep_image_of_few_bits_is_told_once(tmp_path, pixels, told, monkeypatch):
    monkeypatch.setattr(module, "_told", set())
    Image.fromarray(pixels).save(tmp_path / "dim.tif")
    with Image.open(tmp_path / "dim.tif") as image:
        assert darkness(image).startswith(told) and bool(darkness(image)) == bool(told)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_image(tmp_path / "dim.tif")
        load_image(tmp_path / "dim.tif")
    messages = [str(warning.message) for warning in caught if warning.category is UserWarning]
    assert len(messages) == bool(told)
    assert all(f"{tmp_path / 'dim.tif'}: {told}" in message for message in messages)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_orientation_is_applied_on_request(tmp_path, orientation, ending):
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(tmp_path / f"a.{ending}", exif=exif)
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.T,
        6: np.rot90(pixels, -1),
        7: np.rot90(pixels, 2).T,
        8: np.rot90(pixels),
    }[orientation]
    assert np.array_equal(np.asarray(load_image(tmp_path / f"a.{ending}", upright=True))[:, :, 0], turned)
    stored = turned if ending == "tif" else pixels  # PIL itself turns TIFF files
    assert np.array_equal(np.asarray(load_image(tmp_path / f"a.{ending}"))[:, :, 0], stored)
    # Opened by its path, a TIFF file is mapped into memory, and Pillow 13 scrambles orientations from 5 on.
    with (tmp_path / f"a.{ending}").open("rb") as file, Image.open(file) as image:
        assert np.array_equal(np.asarray(to_image(image, upright=True))[:, :, 0], turned)


def test_a_pipe_is_refused_and_nobody_waits_for_its_writer(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", "/dev/zero"):
        with pytest.raises(ImageError, match=f"{path}: cannot read this image .a pipe or a device"):
            load_image(path)
