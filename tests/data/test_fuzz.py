"""Whatever bytes an image file or an image list holds: an image, or one sentence that names the file, and soon.

``FUZZ_EXAMPLES=1000000`` in the environment tries more; ``tests/data/corpus`` keeps the smallest file of each way in
which a longer run saw an image refused.
"""

from __future__ import annotations

import io
import os
import time
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_ood.data.files import find_files
from lightning_ood.data.images import ImageError, load_image
from lightning_ood.errors import InputError

CORPUS = Path(__file__).parent / "corpus"
LONG = os.environ.get("FUZZ_EXAMPLES")  # without it the same examples each time
MANY = settings(
    max_examples=int(LONG or 150),
    derandomize=LONG is None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
WRITTEN = [  # mode, format
    *(
        ("RGB", kind)
        for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "PCX", "SGI", "DDS", "ICO")
    ),
    *(("P", "PNG"), ("I;16", "PNG"), ("LA", "PNG"), ("1", "PNG"), ("CMYK", "JPEG"), ("F", "TIFF"), ("I;16", "TIFF")),
    *(("RGB", "JPEG2000"), ("L", "IM"), ("1", "XBM"), ("RGB", "MPO")),
]


@cache
def seeds() -> list[bytes]:
    """A small image in every format."""
    pixels = np.arange(7 * 5 * 3, dtype=np.uint8).reshape(7, 5, 3)
    found = []
    for mode, kind in WRITTEN:
        deep = {"I;16": np.uint16, "F": np.float32}.get(mode)
        image = Image.fromarray(pixels[:, :, 0].astype(deep) / 255) if mode == "F" else Image.fromarray(pixels)
        if mode == "I;16":
            image = Image.fromarray(pixels[:, :, 0].astype(np.uint16))
        file = io.BytesIO()
        (image if deep else image.convert(mode)).save(file, kind)
        found.append(file.getvalue())
    return found


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An image some of whose bytes are others, are missing or come twice."""
    content = bytearray(draw(st.sampled_from(seeds())))
    places = st.one_of(st.integers(0, min(80, len(content) - 1)), st.integers(0, len(content) - 1))
    for place, value in draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
        content[place] = value
    start, length = draw(places), draw(st.integers(0, 12))
    change = draw(st.sampled_from(["none", "cut", "drop", "repeat"]))
    if change == "cut":
        del content[start:]
    elif change == "drop":
        del content[start : start + length]
    elif change == "repeat":
        content[start:start] = content[start : start + length]
    return bytes(content)


def check_image(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = load_image(path, upright=True)
        except ImageError as error:
            assert str(path) in str(error)
        else:
            assert image.mode == "RGB" and min(image.size) > 0
    assert time.process_time() - began < 10


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        for image in ("a.png", "b c.jpg"):
            (Path(name) / image).touch()
        yield Path(name)


@MANY
@given(content=damaged())
def test_a_damaged_image(content: bytes, folder: Path) -> None:
    check_image(content, folder / "image.any")


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.iterdir()))
def test_a_file_of_the_corpus(name: str, folder: Path) -> None:
    check_image((CORPUS / name).read_bytes(), folder / name)


WORDS = st.one_of(
    st.sampled_from(["a.png", "b c.jpg", "./a.png", " ", "\t", "\n", "\r", "0", "-1", "7", "1_0", "10" * 8, "\ufeff"]),
    st.text(max_size=6),
)


@MANY
@given(content=st.one_of(st.lists(WORDS, max_size=12).map(lambda words: "".join(words).encode()), st.binary()))
def test_any_image_list(content: bytes, folder: Path) -> None:
    path = folder / "list.txt"
    path.write_bytes(content)
    try:
        found = find_files(path, folder)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert len(found.files) == len(found.labels) > 0 and min(found.labels) >= -1
