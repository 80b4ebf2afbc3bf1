"""A fit and a test on a few images: what the detectors say to it, and how long the whole would take."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lightning_ood.commands.check.detectors import needs_labels
from lightning_ood.commands.check.findings import Findings
from lightning_ood.commands.check.reading import spread
from lightning_ood.data.sets import Batch, ImageSet, collate
from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.msp import MSP
from lightning_ood.engine.module import OODModule
from lightning_ood.engine.scoring import ScoringCallback
from lightning_ood.errors import InputError
from lightning_ood.features import Features


class Watch:
    """Seconds an image by what they were spent on. The first batch warms up and does not count where there are more."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._spent: dict[str, list[tuple[float, int]]] = defaultdict(list)

    @contextmanager
    def timing(self, name: str, images: int) -> Iterator[None]:
        """Times a step with a batch."""
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self._spent[name].append((time.perf_counter() - start, images))

    def per_image(self, name: str) -> float:
        """Seconds; 0 for what was never done."""
        spent = self._spent[name][1:] or self._spent[name]
        images = sum(count for _, count in spent)
        return sum(seconds for seconds, _ in spent) / images if images else 0.0

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass
class Trial:
    """Fits and scores on samples, without a trainer's loops and without leaving anything on disk.

    Attributes:
        found: takes in what goes wrong.
        trainer: says device and precision.
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
        self.watch = Watch(self.module.device)

    def fit(self, detectors: dict[str, Detector], train: ImageSet, val_ood: Sequence[ImageSet]) -> ScoringCallback:
        """Fits on a sample as though it were the training set, so that samples and subsets are drawn from it.

        Args:
            detectors: are set up again for it; those that cannot be fitted are taken out.
            train: the ID training images.
            val_ood: validation OOD sets.

        Returns:
            the detectors with their fit.
        """
        batches = list(self._batches(train))
        self._find_needs(detectors, batches[0][1], train.labels is not None)
        scoring = callback(detectors)
        labels = torch.cat([batch.label for _, batch in batches]).cpu() if train.labels is not None else None
        scoring.prepare(self.module, labels, fit=True)
        fitting = scoring.to_fit
        for detector in fitting.values():
            detector.to(self.module.device)
        for positions, batch in batches:
            features = self._features(batch._replace(index=positions), "network, fit")
            for name in list(fitting):
                if not self._times(f"fit {name}", len(features), name, partial(fitting[name].update, features)):
                    del fitting[name], detectors[name]
        for offset, images in enumerate(val_ood):
            for positions, batch in self._batches(images):
                index = positions * len(val_ood) + offset  # no two sets share one
                features = self._features(batch._replace(index=index), "network, fit", views=False)
                for detector in fitting.values():
                    detector.update_ood(features)
        whole = sum(len(batch.index) for _, batch in batches) == len(train)
        self._compute(fitting, detectors, scoring, whole)
        return scoring

    def _compute(
        self, fitting: dict[str, Detector], detectors: dict[str, Detector], scoring: ScoringCallback, whole: bool
    ) -> None:
        for name, detector in fitting.items():
            try:
                with self.watch.timing(f"compute {name}", 1):
                    fitted = {key: value.detach() for key, value in detector.compute().items()}
                scoring.fitted[name] = fitted
                self.found.detectors[name]["fitted_bytes"] = sum(v.numel() * v.element_size() for v in fitted.values())
            except torch.linalg.LinAlgError as error:  # features that are not finite
                self.found.add("error", "detectors", name, str(error))
                del detectors[name]
            except InputError as error:
                hint = "" if whole else f" (with {self.samples} of the images; more may do: --check.samples)"
                self.found.add("error" if whole else "warning", "detectors", name, f"{error}{hint}")
                del detectors[name]
        for detector in fitting.values():  # only now: they share what they sum up alike
            detector.reset()
        for entry in scoring.unfit():
            self.found.add("error", "detectors", entry.split(": ")[0], f"its fit is not a number ({entry})")
            detectors.pop(entry.split(": ")[0], None)

    def test(self, scoring: ScoringCallback, images: ImageSet) -> tuple[int, int]:
        """Scores a sample of ID test images.

        Returns:
            how many of the images with a label are classified rightly, and how many have one.
        """
        scoring.prepare(self.module, None, fit=False)
        self.module.perturb(scoring.perturbations())
        right = labelled = 0
        for _, batch in self._batches(images):
            features = self._features(batch, "network, test")
            right += int((features.prediction == batch.label).sum())
            labelled += int((batch.label >= 0).sum())
            for name in list(scoring.detectors):
                if not self._times(f"test {name}", len(features), name, partial(self._score, scoring, name, features)):
                    del scoring.detectors[name]
        return right, labelled

    def _score(self, scoring: ScoringCallback, name: str, features: Features) -> Tensor:
        scores = scoring.detectors[name].score(features, scoring.fitted.get(name, {}))
        if not scores.isfinite().all():
            raise InputError("its scores of ID test images are not finite")
        return scores

    def _find_needs(self, detectors: dict[str, Detector], batch: Batch, labelled: bool) -> None:
        """Which detectors need labels; those that do are taken out where there are none."""
        callback(detectors).prepare(self.module, None, fit=True)
        features = self._features(batch, "network, first")
        if not labelled:
            features = replace(features, labels=None)
        info = self.module.backbone.info()
        for name, detector in list(detectors.items()):
            needs = detector.fits and needs_labels(detector, features, info)
            self.found.detectors[name]["labels"] = needs
            if needs and not labelled:
                what = "needs the labels of the training images, and data.id.train has none; give it class labels"
                self.found.add("error", "detectors", name, f"{what}, or leave the detector out")
                del detectors[name]

    def _batches(self, images: ImageSet) -> Iterator[tuple[Tensor, Batch]]:
        """A sample in batches on the network's device; beside each, its images' positions in the sample."""
        images = images.using(self.module.preprocess.transform())
        images.bad_images = "skip"  # they are named already
        positions, seen = spread(len(images), self.samples), 0
        for start in range(0, len(positions), self.batch_size):
            some = positions[start : start + self.batch_size]
            with self.watch.timing("read", len(some)):
                batch = collate([images[position] for position in some])
            if len(batch.index):
                batch = self.trainer.precision_plugin.convert_input(batch)
                batch = self.trainer.strategy.batch_to_device(batch, self.module.device)
                yield torch.arange(seen, seen + len(batch.index)), batch
                seen += len(batch.index)

    def _features(self, batch: Batch, name: str, views: bool = True) -> Features:
        with self.watch.timing(name, len(batch.index)), self.trainer.precision_plugin.val_step_context():
            return self.module.features(batch, views)

    def _times(self, step: str, images: int, name: str, call: Callable[[], Any]) -> bool:
        with self.watch.timing(step, images):
            return self.found.attempt("detectors", name, call)


def callback(detectors: dict[str, Detector]) -> ScoringCallback:
    """What fits and scores these detectors, which may be none: the accuracy is of interest all the same."""
    scoring = ScoringCallback({"msp": MSP()})
    scoring.detectors = detectors
    return scoring
