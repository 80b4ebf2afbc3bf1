"""Any image becomes an 8-bit RGB PIL image, the one input of every preprocessing."""

import os
import warnings
from collections.abc import Callable
from stat import S_ISREG
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_ood.errors import InputError


class ImageError(InputError):
    """One image cannot be read. With ``bad_images: skip`` it is left out and counted."""

    def __init__(self, message: str) -> None:
        # A loader's worker process passes an exception on with its whole traceback as the message: keep the fact.
        super().__init__(message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip())


# Values of the EXIF tag Orientation -> what turns the image upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION, _PHOTOMETRIC, _BITS = 274, 262, 258  # tags of EXIF and TIFF
_WHITE_IS_ZERO = 0

_PART = 2**20  # pixels
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_DARK = 2**14  # 14 bits in 16 are already four times as dark as they should be
_told: set[str] = set()  # modes of which this process has told that an image is dark


def load_image(path: str | os.PathLike[str], upright: bool = False) -> Image.Image:
    """Reads a file of any mode and size as 8-bit RGB.

    Alpha is dropped, as in torchvision's ``ImageFolder``; 16-bit grey is scaled to 8 bit, where PIL alone would clip
    it. Of an animation, the first frame.

    Args:
        path: of the file.
        upright: turns the image as its EXIF orientation says. ``ImageFolder`` does not; of TIFF files PIL always does.

    Raises:
        ImageError: if the file is missing, truncated or no image; names the file.
    """
    try:
        with open_file(path) as file, Image.open(file) as image:
            return _turned(to_rgb(image, str(path)), image) if upright else to_rgb(image, str(path))
    except MemoryError as error:  # a header of a few bytes may ask for any number of them
        raise bad_image(str(path), MemoryError("it asks for more memory than there is")) from error
    except Exception as error:  # the decoders raise whatever the bytes lead them to
        raise bad_image(str(path), error) from error


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a regular file for reading; a pipe, which would wait for a writer, and a device are refused.

    Raises:
        OSError: if there is no such file, or it is no regular one.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_WAIT))  # noqa: SIM115
    if not S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("a pipe or a device, no file")
    return file


def bad_image(where: str, error: Exception) -> ImageError:
    """The error of an image that cannot be read: where it lies, why, and what to do."""
    reason = str(error) or type(error).__name__
    return ImageError(
        f"{where}: cannot read this image ({reason}); repair it, take it out of the set, or pass "
        "`--data.bad_images skip` to leave such images out and have them counted"
    )


def to_rgb(image: Image.Image, where: str = "an image") -> Image.Image:
    """Converts any PIL mode to 8-bit RGB, on a copy. Warns of integers that use little of the 16 bits.

    Args:
        image: of any mode.
        where: its file or position, for the warning.

    Raises:
        ValueError: if 32-bit pixels lie outside the supported range: 0 to 65535 for integers, 0 to 1 for floats.
    """
    if is_deep(image):
        pixels = _from_integers(integers(image))
        if message := darkness(image):
            _tell_once(image.mode, f"{where}: {message}")
        return Image.fromarray(pixels).convert("RGB")
    if image.mode == "F":
        pixels = _from_floats(np.asarray(image))
        return Image.fromarray(np.uint8(255) - pixels if _white_is_zero(image) else pixels).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns on the direct way; the colours are the same
    return image.convert("RGB")


def is_deep(image: Image.Image) -> bool:
    """Returns whether the pixels are integers of more than 8 bits."""
    return image.mode == "I" or image.mode.startswith("I;16")


def integers(image: Image.Image) -> np.ndarray:
    """Returns the pixels ``[H, W]`` of a deep image on the scale 0 to 65535, black to white.

    PIL leaves a TIFF of 12 bits as it is, and one of 16 bits whose zero is white.
    """
    pixels = np.asarray(image).astype(np.int64)
    bits = _tag(image, _BITS)
    if isinstance(bits, tuple) and len(bits) == 1 and 8 < bits[0] < 16:
        pixels = np.rint(pixels * (65535 / (2 ** bits[0] - 1))).astype(np.int64)
    return 65535 - pixels if _white_is_zero(image) else pixels


def darkness(image: Image.Image) -> str:
    """Says that a deep image looks as though it held fewer bits than its mode; empty where it does not."""
    high = int(integers(image).max()) if is_deep(image) else 0
    if not 0 < high < _DARK:
        return ""
    return (
        f"mode {image.mode}, and no value is above {high} of 65535: it is read as a dark image; where it holds fewer "
        "than 16 bits, scale its values to 16 bits or save it in 8"
    )


def _tell_once(mode: str, message: str) -> None:
    if mode not in _told:
        _told.add(mode)
        warnings.warn(f"{message} (other images of this mode are not named; `check` counts them)", stacklevel=2)


def _tag(image: Image.Image, tag: int) -> Any:
    return getattr(image, "tag_v2", {}).get(tag)


def _white_is_zero(image: Image.Image) -> bool:
    return _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO


def _turned(rgb: Image.Image, image: Image.Image) -> Image.Image:
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    return rgb if turn is None else rgb.transpose(turn)


def to_image(item: Any, upright: bool = False, where: str = "an image") -> Image.Image:
    """Converts what map-style datasets give to 8-bit RGB.

    Args:
        item: a PIL image; an array, ``[H, W]`` or ``[H, W, C]``; or a tensor, ``[H, W]`` or ``[C, H, W]``; of uint8, or
            of floats in [0, 1]; C is 1, 2 (grey and alpha), 3 or 4 (alpha).
        upright: turns a PIL image as its EXIF orientation says.
        where: its position, for a warning.

    Raises:
        InputError: if it is something else, or its floats lie outside [0, 1].
    """
    if isinstance(item, Image.Image):
        return _turned(to_rgb(item, where), item) if upright else to_rgb(item, where)
    if isinstance(item, Tensor):
        pixels = item.detach().cpu()
        pixels = pixels.float() if pixels.dtype == torch.bfloat16 else pixels
        array = pixels.permute(1, 2, 0).numpy() if pixels.ndim == 3 else pixels.numpy()
    elif isinstance(item, np.ndarray):
        array = item
    else:
        raise InputError(f"an image must be a PIL image, an array or a tensor, not {type(item).__name__}")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4) or 0 in array.shape:
        order = "[C, H, W] (a tensor)" if isinstance(item, Tensor) else "[H, W, C] (an array)"
        raise InputError(f"an image of shape {list(item.shape)}; it must be [H, W] or {order} with 1 to 4 channels")
    return _from_array(array)


def _from_array(array: np.ndarray) -> Image.Image:
    """8-bit RGB from ``[H, W, C]``."""
    if np.issubdtype(array.dtype, np.floating):
        try:
            array = _from_floats(array)
        except ValueError as error:
            raise InputError(
                f"{error}: give the data set without its normalisation, the model's preprocessing is applied here"
            ) from None
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype != np.uint8:
        raise InputError(f"an image of {array.dtype}; it must be uint8, or floats in [0, 1]")
    pixels = np.ascontiguousarray(array[:, :, 0] if array.shape[2] == 1 else array)
    return Image.fromarray(pixels).convert("RGB")


def _from_integers(pixels: np.ndarray) -> np.ndarray:
    """16-bit integers to uint8; PIL gives them as mode I too, depending on its version."""
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 65535:
        raise ValueError(f"its integers lie in [{low}, {high}], outside 16 bits")
    return _to_bytes(pixels, lambda part: part / 257)  # 65535 = 257 * 255


def _from_floats(pixels: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] to uint8; gives back what an 8-bit image was before division by 255."""
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"its floats lie in [{low:.4g}, {high:.4g}], outside [0, 1]")
    return _to_bytes(pixels, lambda part: part * 255)


def _to_bytes(pixels: np.ndarray, scale: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Scales in float64 and rounds to uint8, a part at a time: a large image fits into memory once, not eight times."""
    flat = pixels.reshape(-1)
    found = np.empty(flat.shape, np.uint8)
    for start in range(0, len(flat), _PART):
        part = slice(start, start + _PART)
        found[part] = np.rint(scale(flat[part].astype(np.float64)))
    return found.reshape(pixels.shape)
