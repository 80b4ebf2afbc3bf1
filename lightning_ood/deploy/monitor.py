"""Watches a stream of images: the share that is OOD, scores against the calibration, and an alarm with a bound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_ood.deploy.load import load_detector
from lightning_ood.deploy.prediction import Prediction
from lightning_ood.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from lightning_ood.deploy.detector import ExportedDetector

POINTS = 1000  # largest number of points of the curve
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
STATE = "state.safetensors"


class Monitor:
    """Counts and tests a stream of images; its memory does not grow with the stream.

    The alarm is raised when the capital of a conformal test martingale reaches ``1 / level``. On a stream that is
    exchangeable with the calibration images (one ID source, any order) it is ever raised with a probability of at most
    ``level``, however long the stream is.

    Args:
        detector: an exported folder, or what :func:`lightning_ood.load_detector` returned.
        use: the detector of the folder that decides; its first where None.
        accept: share of ID images that is accepted; that of the export where None.
        level: largest probability of a false alarm over the whole stream.
        seed: of the random order of equal scores.
        trust_code: see :func:`lightning_ood.load_detector`.
        device: where the network runs.

    Attributes:
        images: number of images seen.
        ood: number of those called OOD.
        streams: number of streams that the alarm counts: those that were merged, and the one that goes on.
        alarm_at: number of the image at which the alarm was raised, if it was in this stream.
        curve: rows ``(images, ood, log10 of the capital)``, at most 1000.
    """

    def __init__(
        self,
        detector: ExportedDetector | str | Path,
        use: str | None = None,
        accept: float | None = None,
        level: float = 0.05,
        seed: int = 0,
        trust_code: bool = False,
        device: str | None = None,
    ) -> None:
        if isinstance(detector, str | Path):
            detector = load_detector(detector, device, trust_code)
        if not 0 < level < 1:
            raise InputError(f"level={level}: write the largest probability of a false alarm, such as 0.05")
        self.detector, self.level, self.seed = detector, level, seed
        self.rule = detector.rule(use, accept)
        self.images = self.ood = 0
        self.streams = 1
        self.alarm_at: int | None = None
        self.curve: list[tuple[int, int, float]] = []
        self._stride = 1
        self._merged_peak = 0.0  # logarithm of the largest capital of the streams that were merged
        self._begin(self._bins(detector.calibration.scores[self.rule.detector]))

    def _begin(self, bins: np.ndarray) -> None:
        import numpy as np

        from lightning_ood.deploy.martingale import Martingale, OnlineRanks
        from lightning_ood.statistics.quantile import SIZE

        self._calibration = np.bincount(bins, minlength=SIZE)  # [bins]
        self._ranks, self._martingale = OnlineRanks(self._calibration.copy(), self.seed), Martingale()

    @staticmethod
    def _bins(scores: np.ndarray) -> np.ndarray:
        import torch

        from lightning_ood.statistics.quantile import bin_of

        found: np.ndarray = bin_of(torch.as_tensor(scores)).numpy()
        return found

    def update(self, images: Any, batch_size: int = 64) -> list[Prediction]:
        """Predicts images, adds them to the stream, and returns the predictions; unreadable images do not count."""
        found = list(self.detector.stream(images, self.rule, batch_size, bad_images="skip"))
        self.add_predictions(found)
        return found

    def add_predictions(self, predictions: list[Prediction]) -> None:
        """Adds predictions of the monitor's detector, with its rule, to the stream."""
        import numpy as np

        read = [one for one in predictions if not one.error]
        scores = np.array([one.scores[self.rule.detector] for one in read], dtype=np.float32)
        self.add(scores, np.array([bool(one.is_ood) for one in read], dtype=bool))

    def add(self, scores: np.ndarray, is_ood: np.ndarray) -> None:
        """Adds scores ``[B]`` and decisions ``[B]`` to the stream."""
        if len(scores) == 0:
            return
        capital = self._martingale.update(self._ranks(self._bins(scores)))  # [B], logarithm
        over = (capital >= self._limit).nonzero()[0]
        if self.alarm_at is None and len(over):
            self.alarm_at = self.images + int(over[0]) + 1
        ood = is_ood.cumsum() + self.ood
        for i in range(len(scores)):
            if (self.images + i + 1) % self._stride == 0:
                self.curve.append((self.images + i + 1, int(ood[i]), float(capital[i]) / 2.302585092994046))
        while len(self.curve) > POINTS:
            self._stride *= 2
            self.curve = [row for row in self.curve if row[0] % self._stride == 0]
        self.images, self.ood = self.images + len(scores), int(ood[-1])

    @property
    def _limit(self) -> float:
        import math

        return math.log(self.streams / self.level)

    @property
    def alarm(self) -> bool:
        """Whether the alarm was raised, and stays raised."""
        return max(self._martingale.log_peak, self._merged_peak) >= self._limit

    def merge(self, other: Monitor) -> None:
        """Adds another stream, of the same exported folder, rule and level.

        The capital of a merged monitor starts anew, and the alarm needs ``streams / level``: the bound then holds for
        all streams together (union bound).

        Raises:
            InputError: if the other monitor watches with another detector, rule or level.
        """
        same = (self.detector.header.get("files"), self.rule, self.level)
        if same != (other.detector.header.get("files"), other.rule, other.level):
            raise InputError("only monitors of the same exported folder, detector, acceptance and level can be merged")
        from lightning_ood.deploy.martingale import Martingale

        peaks = (self._merged_peak, other._merged_peak, self._martingale.log_peak, other._martingale.log_peak)
        self._merged_peak = max(peaks)
        self._ranks.counts += other._ranks.counts - other._calibration
        self._ranks.seen += other._ranks.seen
        self._martingale, self.alarm_at = Martingale(), None
        self.images, self.ood = self.images + other.images, self.ood + other.ood
        self.streams += other.streams + 1  # the one that begins now
        self.curve, self._stride = [], 1

    def summary(self) -> dict[str, Any]:
        """Returns what the stream shows in plain values.

        ``images``, ``ood``; ``share`` called OOD with its 95 % interval ``low``, ``high``, and ``expected``, the share
        of ID images that is called OOD; ``alarm``, ``alarm_at``, ``log10_capital``, ``log10_peak`` and ``log10_limit``;
        ``quantiles``: quantile -> score of the calibration images, of the stream.
        """
        import torch

        from lightning_ood.deploy.intervals import wilson
        from lightning_ood.statistics.quantile import quantile

        low, high = wilson(self.ood, self.images)
        stream = torch.from_numpy(self._ranks.counts - self._calibration)
        at = torch.tensor(QUANTILES)
        columns = (quantile(torch.from_numpy(self._calibration), at).tolist(), quantile(stream, at).tolist())
        seen = self.images > 0
        return {
            "detector": self.rule.detector,
            "images": self.images,
            "ood": self.ood,
            "share": self.ood / self.images if seen else None,
            "low": low,
            "high": high,
            "expected": 1 - self.rule.accept,
            "level": self.level,
            "streams": self.streams,
            "alarm": self.alarm,
            "alarm_at": self.alarm_at,
            "log10_capital": self._martingale.log_capital / 2.302585092994046,
            "log10_peak": max(self._martingale.log_peak, self._merged_peak) / 2.302585092994046,
            "log10_limit": self._limit / 2.302585092994046,
            "quantiles": {
                str(q): [known, found if seen else None] for q, known, found in zip(QUANTILES, *columns, strict=True)
            },
        }

    def write(self, output: str | Path) -> Path:
        """Writes the folder ``output``: summary, curve, page, and the state to go on from; returns the folder.

        ``summary.json``; ``curve.parquet`` with the columns ``images``, ``ood``, ``share``, ``low``, ``high`` and
        ``log10_capital``; ``index.html``, one self-contained page; ``state.safetensors`` for :meth:`resume`.
        """
        from lightning_ood.deploy.monitor_files import write_curve, write_page, write_state
        from lightning_ood.ops.files import write_text

        folder, summary = Path(output), self.summary()
        write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        write_curve(folder / "curve.parquet", self.curve)
        write_page(folder / "index.html", summary, self.curve)
        write_state(folder / STATE, self._state())
        return folder

    def resume(self, output: str | Path) -> Monitor:
        """Goes on from the state that :meth:`write` left in a folder; returns this monitor.

        Raises:
            InputError: if there is no state, or it is of another exported folder, rule or level.
        """
        from lightning_ood.deploy.monitor_files import read_state

        path = Path(output) / STATE
        plain, arrays = read_state(path)
        mine = self._state()[0]
        if any(plain[key] != mine[key] for key in ("files", "rule", "level", "seed")):
            raise InputError(f"{path} was written with another exported folder, detector, acceptance, level or seed")
        self.images, self.ood, self.streams = plain["images"], plain["ood"], plain["streams"]
        self.alarm_at, self._stride, self._merged_peak = plain["alarm_at"], plain["stride"], plain["merged_peak"]
        self.curve = [(int(a), int(b), float(c)) for a, b, c in arrays["curve"]]
        self._ranks.counts[arrays["bins"]] = arrays["counts"]
        self._ranks.seen = plain["ranked"]
        bets = self._martingale
        bets.seen, bets.log_stakes = plain["bets"], arrays["log_stakes"]
        bets.log_capital, bets.log_peak = plain["log_capital"], plain["log_peak"]
        return self

    def _state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        import numpy as np

        bets, filled = self._martingale, self._ranks.counts.nonzero()[0]
        plain = {
            **{
                "files": self.detector.header.get("files"),
                "rule": [self.rule.detector, self.rule.accept, self.rule.threshold, self.rule.by_class],
            },
            **{"level": self.level, "seed": self.seed, "images": self.images, "ood": self.ood},
            **{"streams": self.streams, "alarm_at": self.alarm_at, "stride": self._stride},
            **{"merged_peak": self._merged_peak, "ranked": self._ranks.seen, "bets": bets.seen},
            **{"log_capital": bets.log_capital, "log_peak": bets.log_peak},
        }
        curve = np.array(self.curve, dtype=np.float64).reshape(-1, 3)
        arrays = {"bins": filled, "counts": self._ranks.counts[filled], "curve": curve, "log_stakes": bets.log_stakes}
        return plain, arrays
