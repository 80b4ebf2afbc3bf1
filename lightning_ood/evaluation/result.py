"""The result of ``evaluate``: scores, table, pictures, and the files of a run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lightning_ood.suite import DetectorSuite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_ood.report.run_results import RunResults


@dataclass
class Evaluation:
    """Scores of test images and what follows from them.

    Attributes:
        scores: a row per test image, as in scores.parquet: ``dataset, role, group, index, path, label, prediction``,
            then one column per detector; higher = more in-distribution.
        suite: the fitted detectors.
        failed: name -> why a detector was left out.
    """

    scores: pd.DataFrame
    suite: DetectorSuite
    failed: dict[str, str] = field(default_factory=dict)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Metrics with 95 % intervals in percent, a row per detector and set or group mean, as in metrics.csv."""
        from lightning_ood.report.table import summarise

        return summarise(self.scores)

    @cached_property
    def table(self) -> pd.DataFrame:
        """AUROC and FPR95 in percent, a row per detector, sorted by mean AUROC; columns ``(set or group, metric)``."""
        from lightning_ood.report.table import MEAN

        metrics = self.metrics
        only = metrics[metrics["dataset"] != MEAN].groupby("group")["dataset"].nunique() == 1
        shown = metrics[(metrics["dataset"] != MEAN) | ~metrics["group"].map(only)]
        means = shown["dataset"] == MEAN
        shown = shown.assign(set=shown["dataset"].where(~means, shown["group"] + " mean"))
        order = pd.MultiIndex.from_product(
            [shown["set"].drop_duplicates(), ["auroc", "fpr95"]], names=["set", "metric"]
        )
        wide = shown.melt(["detector", "set"], ["auroc", "fpr95"], "metric")
        table = wide.pivot(index="detector", columns=["set", "metric"], values="value")[order]
        mean = metrics[metrics["dataset"] != MEAN].groupby("detector")["auroc"].mean()
        return table.loc[mean.sort_values(ascending=False, kind="stable").index]

    @property
    def accuracy(self) -> float | None:
        """Accuracy on labelled ID test images in percent; None where no image has a label."""
        from lightning_ood.report import accuracy

        return accuracy(self.scores)

    def plot(self) -> Figure:
        """Draws a histogram of the scores of each detector, ID images and OOD sets."""
        from lightning_ood.report.plots import histograms

        return histograms(self.scores, self.metrics)

    def save(self, folder: Path | str) -> Path:
        """Prints the table and writes what a run leaves behind; returns the folder.

        The files are scores.parquet, metrics.csv, doubts.csv, pictures and the page.
        """
        from lightning_ood.report import write_scores
        from lightning_ood.report.doubts import all_doubts
        from lightning_ood.report.publish import publish

        folder = Path(folder)
        write_scores(self.scores, folder)
        results = results_of(self.scores, self.suite)
        results = replace(results, doubts=all_doubts(self.scores, results.doubts))
        results.save(folder)
        publish(results, folder)
        return folder

    def __str__(self) -> str:
        return self.table.round(1).to_string()

    def _repr_html_(self) -> str:
        """Returns the table for a notebook."""
        return self.table.round(1).to_html()


def results_of(scores: pd.DataFrame, suite: DetectorSuite, **others: Any) -> RunResults:
    """Joins a table of scores with what the detectors of a suite say: summaries, costs, doubts about their fits.

    Args:
        scores: a row per test image.
        suite: the fitted detectors.
        others: other fields of the results.
    """
    from lightning_ood.report.run_results import RunResults

    summaries = {name: detector.summary(suite.fitted.get(name, {})) for name, detector in suite.detectors.items()}
    costs = {name: detector.extra_forwards for name, detector in suite.detectors.items()}
    return RunResults(scores, summaries=summaries, costs=costs, doubts=suite.doubts, **others)
