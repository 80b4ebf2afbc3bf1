"""The self-contained HTML page of a run: table, plots, fit summaries, configuration, environment, citations."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from PIL import Image

from lightning_ood.metrics.rates import METRICS
from lightning_ood.report.console import Costs, caption
from lightning_ood.report.doubts import Doubts
from lightning_ood.report.environment import bibtex, environment, papers
from lightning_ood.report.mistakes import PREFIX

_TEXTS, _COUNTS = ("detector", "dataset", "group"), ("n_id", "n_ood")
_COSTS = {"extra forwards: fit": "fit", "extra forwards: test": "test"}  # column -> key of Detector.extra_forwards
_CAPTIONS = {
    "auroc": "AUROC of each detector on each set",
    "fpr95": "FPR95 (ID positive) of each detector on each set",
    "histograms": "Scores; the dashed line is the threshold that keeps 95 % of the ID images",
    "roc": "ROC curves; a dot marks where 95 % of the ID images are kept",
    "taken_for": "Classes that the network predicts for the images of each set",
    "classes": "Mistakes by class, at the threshold that keeps 95 % of the ID images",
    "blocks": "FeatureNorm: NormRatio of each block, and the AUROC of the blocks that were scored",
    "coverage": "NAC: coverage of each neuron state by the training images",
    "contributions": "LINe: contributions of the units to a class, the largest first",
}


def render_page(
    metrics: pd.DataFrame,
    pictures: Iterable[Path],
    *,
    accuracy: float | None = None,
    summaries: Mapping[str, Mapping[str, Any]] | None = None,
    config: str = "",
    title: str = "Out-of-distribution detection",
    costs: Costs | None = None,
    note: str = "",
    found: Mapping[str, str] | None = None,
    doubts: Doubts | None = None,
) -> str:
    """Renders the page as HTML that needs no network and no other file.

    Args:
        metrics: result of ``summarise``.
        pictures: PNG files to embed.
        accuracy: accuracy on the ID images in percent.
        summaries: detector -> summary of its fit; numbers ``<name>.<item>`` are drawn in one chart.
        config: config of the run as YAML.
        title: title of the page.
        costs: detector -> extra forwards per image in each command.
        note: why some images of mistakes could not be read.
        found: environment of the test; the current one where None.
        doubts: detector -> what is doubtful about its row; counted in the table, listed below it.
    """
    engine = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = engine.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    found = found or environment()
    return template.render(
        title=title,
        caption="\n".join(line for line in caption(metrics, accuracy).splitlines() if not line.startswith("Cells:")),
        **_table(metrics, costs or {}, doubts or {}),
        doubts=[(name, said) for name, said in (doubts or {}).items() if said],
        **_galleries([path for path in pictures if path.suffix == ".png"]),
        note=note,
        fits=[(name, *split_summary(summary)) for name, summary in (summaries or {}).items() if summary],
        config=config,
        environment=found,
        bibtex=bibtex(found),
        papers=papers(config, metrics["detector"].drop_duplicates()),
    )


def _table(metrics: pd.DataFrame, costs: Costs, doubts: Doubts) -> dict[str, Any]:
    rows = [
        {**row, **{column: costs.get(row["detector"], {}).get(key, 0) for column, key in _COSTS.items()}}
        for row in metrics.to_dict("records")
    ]
    for row in rows:
        row["doubts"] = len(doubts.get(row["detector"], ()))
    return {
        "columns": [*_TEXTS, *(("doubts",) if doubts else ()), *METRICS, *_COUNTS, *(_COSTS if costs else ())],
        "rows": rows,
        "texts": _TEXTS,
        "counts": ("doubts", *_COUNTS, *_COSTS),
        "groups": list(metrics["group"].drop_duplicates()),
    }


def _galleries(paths: Iterable[Path]) -> dict[str, list[tuple[str, str]]]:
    """Returns caption and image data of each plot, and separately of the images of mistakes."""
    shown: dict[str, list[tuple[str, str]]] = {"pictures": [], "mistakes": []}
    for path in paths:
        if path.stem.startswith(PREFIX):
            shown["mistakes"].append((path.stem.removeprefix(PREFIX), _photograph(path)))
        else:
            shown["pictures"].append((_CAPTIONS.get(path.stem, path.stem), _embedded(path)))
    return shown


def _embedded(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _photograph(path: Path) -> str:
    """Encodes an image of mistakes as JPEG, a quarter of the PNG's size, since there is one per detector."""
    file = io.BytesIO()
    Image.open(path).convert("RGB").save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def split_summary(
    summary: Mapping[str, Any],
) -> tuple[list[tuple[str, str]], dict[str, list[tuple[str, float, float, bool]]]]:
    """Splits a detector's summary into single facts and charts.

    Returns:
        Facts (key, text), and charts: name -> (item, value, position from 0, smallest, to 100, largest, chosen).
    """
    items: dict[str, dict[str, float]] = {}
    for key, value in summary.items():
        name, item = _chart(key)
        if item and isinstance(value, (int, float)) and not isinstance(value, bool):
            items.setdefault(name, {})[item] = float(value)
    items = {name: values for name, values in items.items() if len(values) > 1}
    named = {value for value in summary.values() if isinstance(value, str)}
    charts = {}
    for name, values in items.items():
        low, high = min(values.values()), max(values.values())
        scale = 100 / (high - low) if high > low else 0.0
        charts[name] = [(item, value, (value - low) * scale, item in named) for item, value in values.items()]
    facts = [
        (key, _text(value))
        for key, value in summary.items()
        if _chart(key)[0] not in charts and not isinstance(value, Mapping)  # curves are plotted
    ]
    return facts, charts


def _chart(key: str) -> tuple[str, str]:
    """``ratio.layer1.0`` -> ``(ratio, layer1.0)``; an entry of a detector inside another keeps its ``base.``."""
    inside = re.match(r"(?:(?:base|norm|of)\.)*", key)
    prefix = inside[0] if inside else ""
    name, _, item = key.removeprefix(prefix).partition(".")
    return prefix + name, item


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
