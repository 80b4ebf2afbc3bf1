"""The results of a tested run in one value, which the report and the loggers show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from lightning_ood.report.console import Costs
from lightning_ood.report.doubts import Doubts, read_doubts, write_doubts
from lightning_ood.report.environment import environment
from lightning_ood.report.fits import Summaries, read_fits, write_fits
from lightning_ood.report.mistakes import Read
from lightning_ood.report.table import accuracy, summarise


@dataclass(frozen=True)
class RunResults:
    """What a tested run found.

    Attributes:
        scores: table of scores, a row per test image and a column per detector.
        summaries: detector -> summary of its fit.
        costs: detector -> extra forwards per image in each command.
        doubts: detector -> what is doubtful about its row.
        classes: names of the classes by label, for people; those of the images' folders where None.
        config: the resolved configuration, YAML.
        environment: versions and machine of the test; the current ones where empty.
        usage: measured cost: ``cost/test_seconds`` and the like -> value.
        checkpoint: the fits that were tested; beside it lies what their fit left for loggers. None names none.
        read: reads an image of the table, for thumbnails; None reads none.
        trapezoid: adds AUPR by trapezoids to the metrics.
    """

    scores: pd.DataFrame
    summaries: Summaries = field(default_factory=dict)
    costs: Costs = field(default_factory=dict)
    doubts: Doubts = field(default_factory=dict)
    classes: Sequence[str] | None = None
    config: str = ""
    environment: Mapping[str, str] = field(default_factory=environment)
    usage: Mapping[str, float] = field(default_factory=dict)
    checkpoint: Path | None = None
    read: Read | None = None
    trapezoid: bool = False

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """The rows of metrics.csv, see ``summarise``."""
        return summarise(self.scores, trapezoid=self.trapezoid)

    @cached_property
    def accuracy(self) -> float | None:
        """Accuracy on the ID images in percent; None without labels."""
        return accuracy(self.scores)

    def save(self, run_dir: Path) -> None:
        """Writes what :meth:`load` reads beside the scores: ``doubts.csv`` and ``report/fits.json``."""
        write_doubts(self.doubts, run_dir)
        facts = {"summaries": self.summaries, "costs": self.costs, "classes": self.classes}
        write_fits(run_dir / "report", environment=self.environment, **facts)

    @classmethod
    def load(cls, run_dir: Path, scores: pd.DataFrame, **others: Any) -> RunResults:
        """Returns the results of an earlier test, without the detectors that ``scores`` lacks.

        Args:
            run_dir: output directory of the run.
            scores: its table of scores, or some detectors of it.
            others: fields that no file holds.

        Raises:
            InputError: if a file is damaged; it can be deleted.
        """
        fits = read_fits(run_dir / "report")
        parts = {"doubts": read_doubts(run_dir), **{key: fits.get(key) or {} for key in ("summaries", "costs")}}
        found: dict[str, Any] = {
            key: {name: value for name, value in part.items() if name in scores} for key, part in parts.items()
        }
        found |= {key: fits[key] for key in ("classes", "environment") if fits.get(key)}
        return cls(scores, **found, **others)
