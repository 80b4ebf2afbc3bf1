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
        self._spent: dict[str, list[tuple[float, int]]] = defaultdict(list)

    @contextmanager
    def timing(self, name: str, images: int) -> Iterator[None]:
        """Times one step on a batch of ``images`` images."""
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self._spent[name].append((time.perf_counter() - start, images))

    def per_image(self, name: str) -> float:
        """Returns the seconds per image of a step; 0 if it never ran."""
        spent = self._spent[name][1:] or self._spent[name]
        images = sum(count for _, count in spent)
        return sum(seconds for seconds, _ in spent) / images if images else 0.0

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class TimedSuite(DetectorSuite):
    """A suite that times each detector's steps; a detector that fails becomes a finding and is left out from then on.

    Args:
        detectors: name -> detector.
        found: takes in what goes wrong.
        timer: takes in the seconds.
    """

    def __init__(self, detectors: Mapping[str, Detector], found: Findings, timer: Timer) -> None:
        super().__init__(detectors)
        self._found, self._timer = found, timer
        self._images = 1
        self.whole: ImageSet | None = None  # the training images of which the suite sees a sample

    def _seen(self, witness: Witness) -> Seen:
        """Returns what was seen, with the counts of the whole set: a sample has too few images for much."""
        seen = super()._seen(witness)
        if self.whole is None or seen.labelled is None or self.whole.labels is None:
            return seen
        labelled = torch.as_tensor(self.whole.labels).bincount(minlength=len(seen.labelled))
        return replace(seen, images=len(self.whole), labelled=labelled)

    def update(self, features: Features) -> None:
        """Adds a batch."""
        self._images = len(features)
        super().update(features)

    def score(self, features: Features) -> Tensor:
        """Scores a batch."""
        self._images = len(features)
        return super().score(features)

    def attempt(self, step: Step, name: str, call: Callable[[], T]) -> T | None:
        """Times the step; None where it failed."""
        if step == "compute":
            with self._timer.timing(f"compute {name}", 1):
                return call()
        with self._timer.timing(f"{'test' if step == 'score' else step} {name}", self._images):
            result: T | None = None
            before = len(self._found.listed)
            with self._found.catching("detectors", name):
                result = call()
                if step == "score" and isinstance(result, Tensor) and not result.isfinite().all():
                    raise InputError("its scores of ID test images are not finite")
        if len(self._found.listed) > before:
            del self.detectors[name]
            return None
        return result


@dataclass
class Trial:
    """Fits and scores on samples, without a trainer's loops and without leaving anything on disk.

    Attributes:
        found: takes in what goes wrong.
        trainer: gives device and precision.
        module: the network.
        samples: images of each set.
        batch_size: images per batch.
    """

    found: Findings
    trainer: L.Trainer
    module: OODModule
    samples: int
    batch_size: int

    def __post_init__(self) -> None:
        self.module.backbone.cache = None  # the times are those of the network
        self.trainer.precision_plugin.convert_module(self.module)
        self.module.to(self.trainer.strategy.root_device)
        self.timer = Timer(self.module.device)

    def suite(self, detectors: Mapping[str, Detector]) -> TimedSuite:
        """A suite whose steps are timed, and that goes on without a detector that fails."""
        return TimedSuite(detectors, self.found, self.timer)

    def fit(self, detectors: dict[str, Detector], train: ImageSet, val_ood: Sequence[ImageSet]) -> TimedSuite:
        """Fits on a sample as though it were the training set, so that samples and subsets are drawn from it.

        Args:
            detectors: are set up again for it.
            train: the ID training images.
            val_ood: validation OOD sets.

        Returns:
            the detectors that could be fitted, with their fit.
        """
        batches = list(self._batches(train))
        self._find_needs(detectors, batches[0][1], train.labels is not None)
        suite, backbone = self.suite(detectors), self.module.backbone
        suite.whole = train
        labels = torch.cat([batch.label for _, batch in batches]).cpu() if train.labels is not None else None
        suite.setup(backbone.info(labels))
        backbone.configure(suite.reads("fit"))
        suite.to(self.module.device)
        for positions, batch in batches:
            suite.update(self._features(batch._replace(index=positions), "network, fit"))
        for offset, images in enumerate(val_ood):
            for positions, batch in self._batches(images):
                index = positions * len(val_ood) + offset  # no two sets share one
                suite.update_ood(self._features(batch._replace(index=index), "network, fit", views=False))
        whole = sum(len(batch.index) for _, batch in batches) == len(train)
        self._compute(suite, whole)
        return suite

    def _compute(self, suite: TimedSuite, whole: bool) -> None:
        for name, error in suite.compute().items():
            few = not isinstance(error, NotFiniteError) and not whole
            hint = f" (with {self.samples} of the images; more may do: --check.samples)" if few else ""
            self.found.add("warning" if few else "error", "detectors", name, f"{error}{hint}")
            del suite.detectors[name]
        hint = "" if whole else f" (found with {self.samples} of the images)"
        for name, said in suite.doubts.items():
            for doubt in said:
                self.found.add("warning", "detectors", name, doubt + hint)
        for name, fitted in suite.fitted.items():
            self.found.detectors[name]["fitted_bytes"] = sum(value.nbytes for value in fitted.values())

    def test(self, suite: TimedSuite, images: ImageSet) -> tuple[int, int]:
        """Scores a sample of ID test images.

        Returns:
            how many of the images with a label are correctly classified, and how many have one.
        """
        suite.setup(self.module.backbone.info())
        self.module.backbone.configure(suite.to(self.module.device).reads("test"))
        correct = labelled = 0
        for _, batch in self._batches(images):
            features = self._features(batch, "network, test")
            correct += int((features.prediction == batch.label).sum())
            labelled += int((batch.label >= 0).sum())
            suite.score(features)
        return correct, labelled

    def _find_needs(self, detectors: dict[str, Detector], batch: Batch, labelled: bool) -> None:
        """Which detectors need labels; those that do are taken out where there are none."""
        suite = DetectorSuite(detectors)
        suite.setup(self.module.backbone.info())
        self.module.backbone.configure(suite.reads("fit"))
        features = self._features(batch, "network, first")
        if not labelled:
            features = replace(features, labels=None)
        info = self.module.backbone.info()
        for name, detector in list(detectors.items()):
            needs = detector.requires_fit and needs_labels(detector, features, info)
            self.found.detectors[name]["labels"] = needs
            if needs and not labelled:
                what = "needs the labels of the training images, and data.id.train has none; give it class labels"
                self.found.add("error", "detectors", name, f"{what}, or leave the detector out")
                del detectors[name]

    def _batches(self, images: ImageSet) -> Iterator[tuple[Tensor, Batch]]:
        """A sample in batches on the network's device; beside each, its images' positions in the sample."""
        images = images.using(self.module.preprocess.transform())
        images.bad_images = "skip"  # they are named already
        positions, seen = evenly_spaced(len(images), self.samples), 0
        for start in range(0, len(positions), self.batch_size):
            some = positions[start : start + self.batch_size]
            with self.timer.timing("read", len(some)):
                batch = collate([images[position] for position in some])
            if len(batch.index):
                batch = self.trainer.precision_plugin.convert_input(batch)
                batch = self.trainer.strategy.batch_to_device(batch, self.module.device)
                yield torch.arange(seen, seen + len(batch.index)), batch
                seen += len(batch.index)

    def _features(self, batch: Batch, name: str, views: bool = True) -> Features:
        with self.timer.timing(name, len(batch.index)), self.trainer.precision_plugin.val_step_context():
            return self.module.features(batch, views)
