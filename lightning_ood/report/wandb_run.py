"""Tables, charts, plots, examples and alerts that are logged to Weights & Biases besides the scalars."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lightning_ood.report.doubts import Doubts, by_sentence, doubts_table
from lightning_ood.report.failures import class_names
from lightning_ood.report.fits import Summaries, ratios
from lightning_ood.report.keys import keys
from lightning_ood.report.mistakes import PREFIX, Read, thumbnails, worst
from lightning_ood.report.plots import roc
from lightning_ood.report.run_results import RunResults
from lightning_ood.report.table import detectors_of, rows_of, without_csid

EXAMPLES = 5  # images of each kind and detector
STEP = "trainer/global_step"  # Lightning's x-axis
_BINS = 64
_ALERT = 2000  # letters of an alert

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


def parts(results: RunResults, pictures: Sequence[Path]) -> list[Callable[[], Content]]:
    """Returns functions that build one part of the log each, beside the scalars.

    The parts are the tables ``metrics`` (with the number of each detector's doubts) and ``doubts`` (their sentences,
    where there are any), a histogram ``scores/<set>/<detector>`` per set, curves ``roc/<set>``, charts
    ``norm_ratio/<detector>``, the plots ``report/<name>`` and the table ``examples`` of the worst mistakes as
    thumbnails.
    """
    scores = without_csid(results.scores)
    return [
        lambda: _tables(results),
        lambda: dict(_histograms(scores)),
        lambda: dict(_curves(scores)),
        lambda: dict(_norm_ratios(results.summaries)),
        lambda: _pictures(pictures),
        lambda: _examples(scores, results.read),
    ]


def alert(run: Any, doubts: Doubts) -> None:
    """Sends one alert about the doubtful rows of the table; none where nothing is doubtful."""
    doubtful = sum(map(bool, doubts.values()))
    if doubtful:
        text = "\n".join(f"{', '.join(names)}: {doubt}" for doubt, names in by_sentence(doubts).items())
        run.alert(f"{doubtful} of {len(doubts)} detectors are doubtful", text[:_ALERT], level="WARN")


def _tables(results: RunResults) -> Content:
    import wandb

    metrics, doubts = results.metrics, results.doubts
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

    rows = rows_of(scores)
    sets = {"": "id", **keys(filter(None, rows))}
    for detector, key in keys(detectors_of(scores)).items():
        values = scores[detector].to_numpy(dtype=np.float64)
        edges = np.histogram_bin_edges(values, _BINS)
        for name, at in rows.items():
            yield f"scores/{sets[name]}/{key}", wandb.Histogram(np_histogram=np.histogram(values[at], edges))


def _curves(scores: pd.DataFrame) -> Iterator[tuple[str, Any]]:
    """Yields a ROC chart per set with a line of about 100 points per detector; W&B draws at most 10 000 points.

    The columns of its table are ``detector``, ``fpr`` (share of the set accepted) and ``tpr`` (share of ID kept).
    """
    import wandb

    values = {name: scores[name].to_numpy() for name in detectors_of(scores)}
    (_, id_rows), *sets = rows_of(scores).items()
    set_keys = keys(name for name, _ in sets)
    for name, at in sets:
        curves = {detector: roc(found[id_rows], found[at], 50) for detector, found in values.items()}
        points = [
            [detector, x, y]
            for detector, (fpr, tpr) in curves.items()
            for x, y in zip(fpr.tolist(), tpr.tolist(), strict=True)
        ]
        yield (
            f"roc/{set_keys[name]}",
            wandb.plot_table(
                "wandb/lineseries/v0",
                wandb.Table(columns=["detector", "fpr", "tpr"], data=points),
                {"step": "fpr", "lineKey": "detector", "lineVal": "tpr"},
                {"title": f"ROC against {name}: share of ID kept", "xname": f"share of {name} accepted"},
            ),
        )


def _norm_ratios(summaries: Summaries) -> Iterator[tuple[str, Any]]:
    import wandb

    found = ratios(summaries)
    for detector, key in keys(found).items():
        table = wandb.Table(columns=["block", "norm_ratio"], data=[list(item) for item in found[detector].items()])
        title = f"{detector}: NormRatio (chosen: {summaries[detector]['block']})"
        yield f"norm_ratio/{key}", wandb.plot.bar(table, "block", "norm_ratio", title=title)


def _pictures(paths: Iterable[Path]) -> Content:
    """Returns each plot under its own key, and the images of mistakes of all detectors as one gallery."""
    import wandb

    paths = list(paths)
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
