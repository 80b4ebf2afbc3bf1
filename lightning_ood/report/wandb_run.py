"""Tables, charts, plots, examples and files that are logged to Weights & Biases besides the scalars."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_ood.report.doubts import Doubts, doubts_table
from lightning_ood.report.failures import class_names
from lightning_ood.report.fits import Summaries, ratios
from lightning_ood.report.mistakes import PREFIX, Read, thumbnails, worst
from lightning_ood.report.plots import roc
from lightning_ood.report.private_wandb import uploads_models
from lightning_ood.report.table import detectors_of, rows_of

LIMIT = 50 * 2**20  # bytes; larger files are uploaded only where log_model is set
EXAMPLES = 5  # images of each kind and detector
STEP = "trainer/global_step"  # Lightning's x-axis
_BINS = 64
_NOT_IN_NAMES = re.compile(r"[^-.\w]", re.ASCII)

Content = dict[str, Any]


def log(run: Any, values: Mapping[str, float], parts: Iterable[Callable[[], Content]]) -> list[Exception]:
    """Logs the scalars and every part in one step.

    Returns:
        Errors of the parts that could not be logged.
    """
    problems: list[Exception] = []
    run.log({STEP: run.summary.get(STEP) or 0, **values}, commit=False)
    for part in parts:
        try:
            run.log(part(), commit=False)
        except Exception as error:
            problems.append(error)
    run.log({})
    return problems


def parts(
    metrics: pd.DataFrame,
    scores: pd.DataFrame,
    pictures: Sequence[Path],
    summaries: Summaries,
    read: Read | None,
    doubts: Doubts,
) -> list[Callable[[], Content]]:
    """Returns functions that build one part of the log each; see :func:`lightning_ood.report.loggers.log_run`."""
    return [
        lambda: _tables(metrics, doubts),
        lambda: dict(_histograms(scores)),
        lambda: dict(_curves(scores)),
        lambda: dict(_norm_ratios(summaries)),
        lambda: _pictures(pictures),
        lambda: _examples(scores, read),
    ]


def log_summaries(run: Any, summaries: Summaries) -> None:
    """Adds scalar results of each fit (thresholds, chosen blocks) to the run's summary; curves are plotted instead."""
    run.summary.update(
        {
            f"fit/{detector}/{key}": value
            for detector, summary in summaries.items()
            for key, value in summary.items()
            if isinstance(value, (str, int, float))
        }
    )


def log_files(logger: Any, kind: str, files: Iterable[Path]) -> None:
    """Logs files as an artifact ``<group>-<kind>``; files above ``LIMIT`` as references unless ``log_model`` is set.

    Args:
        logger: a ``WandbLogger``.
        kind: type of the artifact.
        files: files to log; missing ones are skipped.
    """
    import wandb

    files = [path for path in files if path.is_file()]
    if not files:
        return
    run = logger.experiment
    artifact = wandb.Artifact(_NOT_IN_NAMES.sub("_", f"{run.group or run.id}-{kind}")[:128], type=kind)
    for path in files:
        if path.stat().st_size <= LIMIT or uploads_models(logger):
            artifact.add_file(str(path), name=path.name)
        else:
            artifact.add_reference(path.absolute().as_uri(), name=path.name)
    run.log_artifact(artifact)


def _tables(metrics: pd.DataFrame, doubts: Doubts) -> Content:
    import wandb

    counted = metrics.assign(doubts=[len(doubts.get(name, ())) for name in metrics["detector"]]) if doubts else metrics
    content: Content = {"metrics": counted, "doubts": doubts_table(doubts)}
    return {
        name: wandb.Table(columns=list(table.columns), data=table.astype(object).to_numpy().tolist())
        for name, table in content.items()
        if len(table)
    }


def _histograms(scores: pd.DataFrame) -> Iterator[tuple[str, Any]]:
    """Yields a histogram of each set's scores; all sets of a detector share their bins for overlays."""
    import wandb

    for detector in detectors_of(scores):
        values = scores[detector].to_numpy(dtype=np.float64)
        edges = np.histogram_bin_edges(values, _BINS)
        for name, at in rows_of(scores).items():
            yield (
                f"scores/{name or 'id'}/{detector}",
                wandb.Histogram(np_histogram=np.histogram(values[at], edges)),
            )


def _curves(scores: pd.DataFrame) -> Iterator[tuple[str, Any]]:
    """Yields a ROC chart per set with a line of about 100 points per detector; W&B draws at most 10 000 points."""
    import wandb

    detectors = detectors_of(scores)
    values: Mapping[str, NDArray[Any]] = {name: scores[name].to_numpy() for name in detectors}
    (_, id_rows), *sets = rows_of(scores).items()
    for name, at in sets:
        curves = [roc(values[detector][id_rows], values[detector][at], 50) for detector in detectors]
        yield (
            f"roc/{name}",
            wandb.plot.line_series(
                xs=[fpr.tolist() for fpr, _ in curves],
                ys=[tpr.tolist() for _, tpr in curves],
                keys=detectors,
                title=f"ROC against {name}: share of ID kept",
                xname=f"share of {name} accepted",
            ),
        )


def _norm_ratios(summaries: Summaries) -> Iterator[tuple[str, Any]]:
    import wandb

    for detector, values in ratios(summaries).items():
        table = wandb.Table(columns=["block", "NormRatio"], data=[list(item) for item in values.items()])
        title = f"{detector}: NormRatio (chosen: {summaries[detector]['block']})"
        yield f"norm_ratio/{detector}", wandb.plot.bar(table, "block", "NormRatio", title=title)


def _pictures(paths: Iterable[Path]) -> Content:
    """Returns each plot under its own key, and the images of mistakes of all detectors as one gallery."""
    import wandb

    paths = [path for path in paths if path.suffix == ".png"]
    mistakes = [path for path in paths if path.stem.startswith(PREFIX)]
    content: Content = {f"report/{path.stem}": wandb.Image(str(path)) for path in paths if path not in mistakes}
    if mistakes:
        gallery = [wandb.Image(str(path), caption=path.stem.removeprefix(PREFIX)) for path in mistakes]
        content[f"report/{PREFIX.rstrip('-')}"] = gallery
    return content


def _examples(scores: pd.DataFrame, read: Read | None) -> Content:
    """Builds the table of the worst mistakes; an image that several detectors get wrong is uploaded once."""
    import wandb

    chosen = [
        (detector, kind, at, row)
        for detector in detectors_of(scores)
        for kind, rows in zip(
            ("most confident OOD", "least confident ID"), worst(scores, detector, EXAMPLES).values(), strict=True
        )
        for at, row in rows.iterrows()
    ]
    small, _ = thumbnails(scores.loc[[at for _, _, at, _ in chosen]], read)
    if not small:
        return {}
    names = class_names(scores)
    images = {at: wandb.Image(image) for at, image in small.items()}
    table = wandb.Table(
        columns=["detector", "kind", "image", "dataset", "class", "prediction", "score", "index", "path"]
    )
    for detector, kind, at, row in chosen:
        is_labelled = row["role"] == "id" and not pd.isna(row["label"])
        true = names[int(row["label"])] if is_labelled else None
        taken = names.get(int(row["prediction"]), str(row["prediction"]))
        path = None if pd.isna(row["path"]) else str(row["path"])
        score = float(row[detector])
        table.add_data(detector, kind, images.get(at), str(row["dataset"]), true, taken, score, int(row["index"]), path)
    return {"examples": table}
