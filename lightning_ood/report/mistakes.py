"""Images of each detector's worst mistakes: the most confident OOD and the least confident ID images."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from PIL import Image, ImageDraw, ImageFont, ImageOps, features

from lightning_ood.errors import InputError
from lightning_ood.ops.files import file_name, read_json, write_text, write_whole
from lightning_ood.report.failures import class_names
from lightning_ood.report.table import detectors_of

COUNT = 10  # images in a row
_SIDE, _GAP, _LINE = 96, 10, 14  # pixels
_GREY = "#555555"
PREFIX = "mistakes-"
FILE = "mistakes.json"  # thumbnails, for the page
_BUDGET = 2_000_000  # bytes of all thumbnails on the page
Read = Callable[[str, int, str | None], Image.Image]  # set, index, path -> image


class _Images(Protocol):
    def read(self, index: int) -> tuple[Image.Image, int]: ...


def reader(root: Path, sets: Mapping[str, _Images] | None = None) -> Read:
    """Returns a function that reads an image from its set where the set is open, and else from its path.

    Args:
        root: folder that relative paths start from.
        sets: name -> open set.
    """

    def read(name: str, index: int, path: str | None) -> Image.Image:
        if sets and name in sets:
            return sets[name].read(index)[0]
        if path is None:
            raise InputError(f"{name}: its images are not files; only `test` can read them")
        from lightning_ood.data.images import load_image  # here: it imports torch, which the report alone does not need

        return load_image(root / path)

    return read


def write_mistakes(
    scores: pd.DataFrame, folder: Path, read: Read | None, classes: Sequence[str] | None = None
) -> tuple[list[Path], str]:
    """Draws ``mistakes-<detector>.png`` and stores the thumbnails; keeps an earlier report's where none can be read.

    Args:
        scores: table of scores.
        folder: output folder.
        read: reads an image; None where images cannot be read.
        classes: names of the classes by label; the ones of their folders where None.

    Returns:
        The files, and why some images could not be read ("" if all could).
    """
    rows = {name: worst(scores, name) for name in detectors_of(scores)}
    paths = {name: folder / f"{PREFIX}{file_name(name)}.png" for name in rows}
    chosen = pd.concat([part for pair in rows.values() for part in pair.values()])
    images, problem = thumbnails(chosen, read)
    for old in folder.glob(f"{PREFIX}*.png"):
        if images or old not in paths.values():
            old.unlink()
    if images:
        names = class_names(scores, classes)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / FILE, json.dumps(_encoded(chosen, images)))
        for name, pair in rows.items():
            strip = _strip(name, pair, images, names)
            write_whole(paths[name], partial(strip.save, format="PNG", compress_level=1))  # quick; 3 % larger
    drawn = [path for path in paths.values() if path.is_file()]
    return drawn, problem if images or len(drawn) < len(paths) else ""  # files that are kept show the same images


def read_thumbnails(folder: Path) -> dict[str, str]:
    """Reads the stored thumbnails: key of an image -> data URI; empty where there are none."""
    images = read_json(folder / FILE)
    return {key: uri for key, uri in images.items() if isinstance(uri, str) and uri.startswith("data:image/")}


def image_key(dataset: Any, index: Any) -> str:
    """Returns the key of an image among the stored thumbnails."""
    return f"{dataset}/{int(index)}"


def _encoded(rows: pd.DataFrame, images: Mapping[Any, Image.Image]) -> dict[str, str]:
    """Encodes thumbnails as data URIs, smaller where there are many, so that a page stays easy to send."""
    kind = "WEBP" if features.check("webp") else "JPEG"
    keys = {
        at: image_key(name, index) for at, name, index in zip(rows.index, rows["dataset"], rows["index"], strict=True)
    }
    found: dict[str, str] = {}
    for side in (_SIDE, 3 * _SIDE // 4, _SIDE // 2):
        found = {}
        for at, image in images.items():
            file = io.BytesIO()
            image.resize((image.width * side // _SIDE or 1, image.height * side // _SIDE or 1)).save(
                file, kind, quality=80
            )
            found[keys[at]] = f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
        if sum(map(len, found.values())) <= _BUDGET:
            break
    return found


def worst(scores: pd.DataFrame, detector: str, count: int = COUNT) -> dict[str, pd.DataFrame]:
    """Returns title -> rows: the OOD images with the highest scores and the ID images with the lowest."""
    ordered = scores.sort_values(detector, kind="stable")
    ood, id_images = (ordered[ordered["role"] == role] for role in ("ood", "id"))
    return {
        "most confident OOD: set, class it is taken for": ood.tail(count).iloc[::-1],
        "least confident ID: class, class it is taken for where that is another": id_images.head(count),
    }


def thumbnails(rows: pd.DataFrame, read: Read | None) -> tuple[dict[Any, Image.Image], str]:
    """Reads each image once; returns row of the table -> thumbnail, and why some images could not be read."""
    found: dict[Any, Image.Image] = {}
    if read is None:
        return found, "the images are not available"
    problem = ""
    images = rows[~rows.index.duplicated()]
    for at, name, index, path in zip(images.index, images["dataset"], images["index"], images["path"], strict=True):
        try:
            image = read(str(name), int(index), None if pd.isna(path) else str(path))
        except (InputError, IndexError) as error:
            problem = problem or str(error)
            continue
        small = max(image.size) < _SIDE
        shown = ImageOps.contain(image, (_SIDE, _SIDE), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
        found[at] = shown if all(shown.size) else image.resize((shown.width or 1, shown.height or 1))
    return found, problem


def _strip(
    detector: str, rows: Mapping[str, pd.DataFrame], thumbnails: Mapping[Any, Image.Image], names: Mapping[int, str]
) -> Image.Image:
    plain, bold = _font("DejaVuSans.ttf"), _font("DejaVuSans-Bold.ttf")
    step, height = _SIDE + _GAP, _LINE + 6 + _SIDE + 2 * _LINE + _GAP
    canvas = Image.new("RGB", (COUNT * step + _GAP, len(rows) * height + 2 * _LINE), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP, 4), detector, "black", bold)
    for number, (title, images) in enumerate(rows.items()):
        top = 2 * _LINE + number * height
        draw.text((_GAP, top), title, _GREY, plain)
        for column, (at, row) in enumerate(images.iterrows()):
            left, upper = _GAP + column * step, top + _LINE + 6
            image = thumbnails.get(at)
            if image is None:
                draw.rectangle((left, upper, left + _SIDE - 1, upper + _SIDE - 1), "#EEEEEE")
                draw.text((left + 8, upper + _SIDE // 2 - 7), "not readable", _GREY, plain)
            else:
                canvas.paste(image, (left + (_SIDE - image.width) // 2, upper + (_SIDE - image.height) // 2))
            for line, text in enumerate(_lines(row, names)):
                draw.text(
                    (left, upper + _SIDE + 1 + line * _LINE), _fitted(text, plain, _SIDE + _GAP - 4), "black", plain
                )
    return canvas


def _lines(row: pd.Series, names: Mapping[int, str]) -> tuple[str, str]:
    taken = f"→ {names.get(int(row['prediction']), row['prediction'])}"
    if row["role"] == "ood":
        return str(row["dataset"]), taken
    if pd.isna(row["label"]):
        return "", taken
    true = int(row["label"])
    return names.get(true, str(true)), "" if true == int(row["prediction"]) else taken


def _font(name: str) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), 11)


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Truncates a text to a width in pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
