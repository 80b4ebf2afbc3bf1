"""The exported folder: ``header.json``, tensors as safetensors, and a model card; every file with its SHA-256."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lightning_ood.deploy.calibration import Calibration
from lightning_ood.errors import InputError
from lightning_ood.ops.checksums import file_hash
from lightning_ood.suite import Fits

HEADER, WEIGHTS, FITS, CALIBRATION, CARD = (
    *("header.json", "weights.safetensors", "fits.safetensors", "calibration.safetensors", "README.md"),
)
FORMAT = 1


def prepare(output: Path, overwrite: bool) -> Path:
    """Returns an empty folder beside ``output``, which :func:`publish` puts in its place.

    Raises:
        InputError: if ``output`` exists and is not to be overwritten, or is no exported folder.
    """
    if output.exists():
        exported = (output / HEADER).is_file()
        if not (overwrite and exported):
            advice = "give --overwrite to replace it, or another --output" if exported else "give another --output"
            raise InputError(f"{output} exists{'' if exported else ' and is no exported detector'}; {advice}")
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def publish(partial: Path, output: Path) -> Path:
    """Moves a finished folder to its place, and returns the place."""
    if output.exists():
        shutil.rmtree(output)
    return partial.rename(output)


def write_tensors(folder: Path, weights: Mapping[str, Tensor], fits: Fits, calibration: Calibration) -> dict[str, str]:
    """Writes weights, fits and calibration scores.

    Returns:
        name of a fitted tensor -> name of the equal tensor that stands for it: detectors share fits.
    """
    save_file({name: _plain(value) for name, value in weights.items()}, folder / WEIGHTS)
    stored: dict[str, Tensor] = {}
    names: dict[Hashable, str] = {}
    shared: dict[str, str] = {}
    for detector, fitted in fits.items():
        for key, value in fitted.items():
            name = f"{detector}/{key}"
            memory = (value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else name
            if memory in names:
                shared[name] = names[memory]
            else:
                names[memory] = name
                stored[name] = _plain(value)
    save_file(stored, folder / FITS)
    arrays = {f"scores/{name}": values for name, values in calibration.scores.items()}
    arrays |= {"predictions": calibration.predictions, "labels": calibration.labels}
    save_file({name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in arrays.items()}, folder / CALIBRATION)
    return shared


def _plain(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous().clone()


def write_header(folder: Path, header: Mapping[str, Any]) -> None:
    """Writes the header, with the hash of every other file and its own."""
    files = {path.name: file_hash(path) for path in sorted(folder.iterdir()) if path.name != HEADER}
    content = {"format": FORMAT, **header, "files": files}
    for name in files:
        (folder / name).chmod(0o644)  # safetensors writes for the owner alone
    text = json.dumps({**content, "sha256": _digest(content)}, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / HEADER).write_text(text + "\n", encoding="utf-8")


def read_header(folder: Path) -> dict[str, Any]:
    """Reads the header and compares every file with its hash.

    Raises:
        InputError: if the folder is none that was exported, is of a newer format, or a file is missing or was changed.
    """
    path = folder / HEADER
    if not path.is_file():
        what = "no exported detector (it lacks header.json)" if folder.is_dir() else "no folder"
        raise InputError(f"{folder} is {what}; write one by `python train.py export --config … --output {folder}`")
    try:
        header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        stated = header.pop("sha256")
        version = header["format"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): export the detector again") from error
    if version != FORMAT:
        raise InputError(f"{path} has format {version} and this version of lightning_ood reads {FORMAT}: export again")
    if stated != _digest(header):
        raise InputError(f"{path} was changed after the export: its content differs from its hash. Export again")
    for name, expected in header["files"].items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file} is missing: copy the whole folder, or export again")
        if name != CARD and file_hash(file) != expected:
            raise InputError(
                f"{file} is damaged or was changed after the export: it differs from its hash. Export again"
            )
    return header


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file; raises InputError if it cannot be read."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}): export the detector again") from error


def read_fits(folder: Path, header: Mapping[str, Any]) -> Fits:
    """Reads the fits: detector -> fitted tensors; tensors that detectors share are one object."""
    stored = read_tensors(folder / FITS)
    stored |= {name: stored[other] for name, other in header["shared"].items()}
    fits: Fits = {}
    for name, value in stored.items():
        detector, _, key = name.partition("/")
        fits.setdefault(detector, {})[key] = value
    return fits


def read_calibration(folder: Path, header: Mapping[str, Any]) -> Calibration:
    """Reads the scores of the calibration images."""
    stored = {name: value.numpy() for name, value in read_tensors(folder / CALIBRATION).items()}
    scores = {name: stored[f"scores/{name}"] for name in header["detectors"]}
    return Calibration(scores, stored["predictions"], stored["labels"], header["calibration"]["origin"])


def size(folder: Path) -> int:
    """Returns the size of the folder in bytes."""
    return sum(path.stat().st_size for path in folder.iterdir())


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
