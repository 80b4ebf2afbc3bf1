"""A dry run: fits and scores the detectors on a few images and measures seconds per image."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import lightning as L
import torch
from torch import Tensor

from lightning_ood.commands.check.detectors import needs_labels
from lightning_ood.commands.check.findings import Findings
from lightning_ood.commands.check.reading import evenly_spaced
from lightning_ood.commands.check.sets import TEST, TRAIN, role
from lightning_ood.data.sets import Batch, ImageSet, collate
from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.doubts import Seen
from lightning_ood.detectors.witness import Witness
from lightning_ood.engine.module import OODModule
from lightning_ood.errors import InputError, NotFiniteError
from lightning_ood.features import Features
from lightning_ood.suite import DetectorSuite, Step, T


class Timer:
    """Measures seconds per image by step. If there are several batches, the first is a warm-up and is left out."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.images = 1  # in the current batch
        self._spent: dict[str, list[tuple[float, int]]] = defaultdict(list)

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Times one step on the current batch."""
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self._spent[name].append((time.perf_counter() - start, self.images))

    def per_image(self, name: str) -> float:
        """Returns the seconds per image of a step; 0 if it never ran."""
        spent = self._spent[name][1:] or self._spent[name]
        images = sum(count for _, count in spent)
        return sum(seconds for seconds, _ in spent) / images if images else 0.0

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class TimedSuite(DetectorSuite):
    """A suite that times each step of each detector; a detector that fails is reported and removed."""

    def __init__(self, detectors: Mapping[str, Detector], found: Findings, timer: Timer) -> None:
        super().__init__(detectors)
        self._found, self._timer = found, timer
        self.whole: ImageSet | None = None  # the training images of which the suite sees a sample

    def _seen(self, witness: Witness) -> Seen:
        """Returns what was seen, with the counts of the whole set: a sample has too few images for much."""
        seen = super()._seen(witness)
        if self.whole is None or seen.labelled is None or self.whole.labels is None:
            return seen
        labelled = torch.as_tensor(self.whole.labels).bincount(minlength=len(seen.labelled))
        return replace(seen, images=len(self.whole), labelled=labelled)

    def attempt(self, step: Step, name: str, call: Callable[[], T]) -> T | None:
        """Times the step; returns None where it failed. ``compute`` raises: the suite collects its errors."""
        with self._timer.timing(f"{step} {name}"):
            if step == "compute":
                return call()
            with self._found.catching("detectors", name) as failures:
                result = call()
                if step == "score" and isinstance(result, Tensor) and not result.isfinite().all():
                    raise InputError("its scores of ID test images are not finite")
        if failures:
            del self.detectors[name]
        return None if failures else result


@dataclass
class DryRun:
    """Fits and scores detectors on samples, without a trainer's loops and without writing to disk.

    Of each set ``samples`` images are read, ``batch_size`` at a time. The trainer determines device and precision.
    """

    found: Findings
    trainer: L.Trainer
    module: OODModule
    samples: int
    batch_size: int

    def __post_init__(self) -> None:
        self.module.backbone.cache = None  # the network itself is timed
        self.trainer.precision_plugin.convert_module(self.module)
        self.module.to(self.trainer.strategy.root_device)
        self.timer = Timer(self.module.device)

    @torch.inference_mode()
    def run(self, detectors: Mapping[str, Detector], sets: Mapping[str, ImageSet]) -> tuple[int, int] | None:
        """Fits on the training images and scores the ID test images, where ``sets`` has them.

        Returns:
            number of correctly classified test images and of those with a label; None where none could be scored.
        """
        suite = TimedSuite(detectors, self.found, self.timer)
        if TRAIN in sets and detectors:
            with self.found.catching("detectors", TRAIN):
                self._fit(suite, sets[TRAIN], [images for key, images in sets.items() if role(key) == "val_ood"])
        for name in suite.unfitted:
            del suite.detectors[name]
        if TEST in sets:
            with self.found.catching("accuracy", TEST):
                return self._test(suite, sets[TEST])
        return None

    def _fit(self, suite: TimedSuite, train: ImageSet, val_ood: Sequence[ImageSet]) -> None:
        """Fits as if the sample were the whole training set: detectors draw their samples and subsets from it."""
        batches = list(self._batches(train))
        self._find_needs(suite, batches[0], train.labels is not None)
        backbone = self.module.backbone
        labels = torch.cat([batch.label for batch in batches]).cpu() if train.labels is not None else None
        suite.whole = train
        suite.setup(backbone.info(labels))
        backbone.configure(suite.reads("fit"))
        suite.to(self.module.device)
        for batch in batches:
            suite.update(self._features(batch, "network, fit"))
        for offset, images in enumerate(val_ood):
            for batch in self._batches(images):
                batch = batch._replace(index=batch.index * len(val_ood) + offset)  # unique over the sets
                suite.update_ood(self._features(batch, "network, fit", views=False))
        incomplete = sum(len(batch.index) for batch in batches) < len(train)
        self.timer.images = 1
        for name, error in suite.compute().items():
            few = incomplete and not isinstance(error, NotFiniteError)
            hint = f" (with {self.samples} of the images; more may do: --check.samples)" if few else ""
            self.found.add("warning" if few else "error", "detectors", name, f"{error}{hint}")
        hint = f" (found with {self.samples} of the images)" if incomplete else ""
        known = {} if self.module.source.unread else suite.doubts  # weights that may be random say nothing
        for name, doubts in known.items():
            for doubt in doubts:
                self.found.add("warning", "detectors", name, doubt + hint)
        for name, fitted in suite.fitted.items():
            self.found.detectors[name].fitted_bytes = sum(value.nbytes for value in fitted.values())

    def _find_needs(self, suite: TimedSuite, batch: Batch, labelled: bool) -> None:
        """Finds the detectors that need labels, and removes them if there are none."""
        info = self.module.backbone.info()
        suite.setup(info)
        self.module.backbone.configure(suite.reads("fit"))
        features = self._features(batch, "network, first")
        features = features if labelled else replace(features, labels=None)
        for name, detector in list(suite.detectors.items()):
            needs = detector.requires_fit and needs_labels(detector, features, info)
            self.found.detectors[name].labels = needs
            if needs and not labelled:
                lack = "needs the labels of the training images, and data.id.train has none; give it class labels"
                self.found.add("error", "detectors", name, f"{lack}, or leave the detector out")
                del suite.detectors[name]

    def _test(self, suite: TimedSuite, images: ImageSet) -> tuple[int, int]:
        suite.setup(self.module.backbone.info())
        self.module.backbone.configure(suite.to(self.module.device).reads("test"))
        correct = labelled = 0
        for batch in self._batches(images):
            features = self._features(batch, "network, test")
            correct += int((features.prediction == batch.label).sum())
            labelled += int((batch.label >= 0).sum())
            suite.score(features)
        return correct, labelled

    def _batches(self, images: ImageSet) -> Iterator[Batch]:
        """Yields a sample in batches on the network's device; ``index`` is the position in the sample, on the host."""
        images = images.using(self.module.preprocess.transform())
        images.bad_images = "skip"  # they are reported already
        positions, seen = evenly_spaced(len(images), self.samples), 0
        for start in range(0, len(positions), self.batch_size):
            some = positions[start : start + self.batch_size]
            self.timer.images = len(some)
            with self.timer.timing("read"):
                batch = collate([images[position] for position in some])
            if size := len(batch.index):
                batch = self.trainer.precision_plugin.convert_input(batch)
                batch = self.trainer.strategy.batch_to_device(batch, self.module.device)
                yield batch._replace(index=torch.arange(seen, seen + size))
                seen += size

    def _features(self, batch: Batch, name: str, views: bool = True) -> Features:
        self.timer.images = len(batch.index)
        with self.timer.timing(name), self.trainer.precision_plugin.val_step_context():
            return self.module.features(batch, views)
