"""The files of a monitor: curve, page and state."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lightning_ood.deploy.intervals import wilson
from lightning_ood.errors import InputError
from lightning_ood.ops.files import write_text, write_whole

Curve = Sequence[tuple[int, int, float]]  # images, ood, log10 of the capital
_WIDTH, _HEIGHT, _LEFT = 720, 240, 60  # of a chart, in pixels


def write_curve(path: Path, curve: Curve) -> None:
    """Writes the curve as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images, ood = [row[0] for row in curve], [row[1] for row in curve]
    bounds = [wilson(flagged, count) for count, flagged, _ in curve]
    columns: dict[str, Any] = {
        "images": pa.array(images, pa.int64()),
        "ood": pa.array(ood, pa.int64()),
        "share": pa.array([b / a for a, b, _ in curve], pa.float64()),
        "low": pa.array([low for low, _ in bounds], pa.float64()),
        "high": pa.array([high for _, high in bounds], pa.float64()),
        "log10_capital": pa.array([row[2] for row in curve], pa.float64()),
    }
    write_whole(path, lambda partial: pq.write_table(pa.table(columns), partial))


def write_state(path: Path, state: tuple[dict[str, Any], dict[str, np.ndarray]]) -> None:
    """Writes plain values and arrays to one safetensors file."""
    plain, arrays = state
    metadata = {"monitor": json.dumps(plain)}
    contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    write_whole(path, lambda partial: save_file(contiguous, partial, metadata))


def read_state(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads what :func:`write_state` wrote.

    Raises:
        InputError: if the file is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"there is no {path} to go on from")
    try:
        with safe_open(path, framework="np") as file:
            plain: dict[str, Any] = json.loads(file.metadata()["monitor"])
            return plain, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): start anew in another folder") from error


def write_page(path: Path, summary: dict[str, Any], curve: Curve) -> None:
    """Writes one self-contained page: the numbers, and two charts."""
    said = "alarm" if summary["alarm"] else "no alarm"
    if summary["alarm_at"]:
        said += f" at image {summary['alarm_at']}"
    share = "-" if summary["share"] is None else f"{summary['share']:.1%}"
    rows = "".join(
        f"<tr><td>{float(q):.0%}</td><td>{known:.4g}</td><td>{'-' if found is None else f'{found:.4g}'}</td></tr>"
        for q, (known, found) in summary["quantiles"].items()
    )
    images = [row[0] for row in curve]
    charts = _chart(
        "log10 of the capital; the alarm is raised at the red line",
        images,
        [row[2] for row in curve],
        summary["log10_limit"],
    )
    charts += _chart(
        "share called OOD; the red line is the share of ID images that is called OOD",
        images,
        [row[1] / row[0] for row in curve],
        summary["expected"],
    )
    detector = html.escape(summary["detector"])
    style = "body{font:15px sans-serif;max-width:760px;margin:2em auto}td,th{text-align:right;padding:2px 12px}"
    parts = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Monitor: {detector}</title><style>{style}</style>",
        f"<h1>{detector}: {said}</h1>",
        f"<p>{summary['images']} images, {summary['ood']} called OOD: {share} (95 % interval {summary['low']:.1%} to",
        f"{summary['high']:.1%}; of ID images {summary['expected']:.1%}). Probability of a false alarm over the whole",
        f"stream: at most {summary['level']:g}.</p>",
        charts,
        "<table><tr><th>quantile</th><th>score, calibration</th><th>score, stream</th></tr>",
        f"{rows}</table></html>\n",
    )
    write_text(path, "\n".join(parts))


def _chart(title: str, x: Sequence[float], y: Sequence[float], line: float) -> str:
    """Draws a line chart as SVG."""
    if not x:
        return ""
    low, high = min(*y, line, 0), max(*y, line)
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return _HEIGHT - 20 - (value - low) / span * (_HEIGHT - 40)

    points = " ".join(f"{_LEFT + a / x[-1] * (_WIDTH - _LEFT - 10):.1f},{at(b):.1f}" for a, b in zip(x, y, strict=True))
    ticks = "".join(
        f'<text x="{_LEFT - 6}" y="{at(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>' for value in (low, high)
    )
    return (
        f"<h2 style='font-size:15px'>{html.escape(title)}</h2>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" font-size="12">{ticks}'
        f'<line x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{at(line):.1f}" y2="{at(line):.1f}" stroke="#c33"/>'
        f'<polyline points="{points}" fill="none" stroke="#246"/>'
        f'<text x="{_WIDTH - 10}" y="{_HEIGHT - 4}" text-anchor="end">{x[-1]} images</text></svg>'
    )
