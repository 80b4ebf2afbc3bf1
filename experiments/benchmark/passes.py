"""The passes that are measured: a bare forward, a fit, a test; and their clock."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_ood.backbone import Backbone
from lightning_ood.detectors.base import Detector
from lightning_ood.suite import moved, taken
from lightning_ood.views.perturbation import Perturbation

Clock = Callable[[], float]
Times = tuple[float, float]  # seconds of CPU (all threads of the process) and of the wall


@dataclass(frozen=True)
class Images:
    """Images in memory, in batches.

    Attributes:
        batches: pixels ``[B, 3, H, W]``, labels ``[B]``, index ``[B]``.
    """

    batches: list[tuple[Tensor, Tensor, Tensor]]

    @classmethod
    def random(cls, count: int, size: int, batch: int, device: str, seed: int) -> Images:
        """Normal pixels, all of one class."""
        draw = torch.Generator().manual_seed(seed)
        index = torch.arange(count)
        pixels = torch.randn(count, 3, size, size, generator=draw).to(device)
        labels = torch.zeros(count, dtype=torch.int64, device=device)
        parts = (pixels.split(batch), labels.split(batch), index.split(batch))
        return cls(list(zip(*parts, strict=True)))

    def labelled(self, labels: Sequence[Tensor]) -> Images:
        """The same images with labels, one tensor for each batch."""
        return Images([(pixels, new, index) for (pixels, _, index), new in zip(self.batches, labels, strict=True)])

    @property
    def labels(self) -> Tensor:
        """Of all."""
        return torch.cat([labels for _, labels, _ in self.batches])


def timed(work: Callable[[], object], device: str) -> Times:
    """Runs it once."""
    _wait(device)
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    _wait(device)
    return time.process_time() - cpu, time.perf_counter() - wall


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@torch.inference_mode()
def bare(network: torch.nn.Module, images: Images) -> None:
    """What everything is compared with."""
    for pixels, _, _ in images.batches:
        network(pixels)


@dataclass
class Passes:
    """Fits and scores a group of detectors as the command line does, without its data loading and progress bar.

    Attributes:
        backbone: the network.
        detectors: name -> detector.
        split: also measure each detector; on a GPU that makes the host wait for it.
        device: where the network is.
    """

    backbone: Backbone
    detectors: dict[str, Detector]
    split: bool = False
    device: str = "cpu"
    fitted: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    shares: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))

    @torch.inference_mode()
    def fit(self, images: Images) -> None:
        """One pass over training images, after :meth:`prepare`."""
        views = [v for part in self._parts() for v in part.views]
        used = {name: detector for name, detector in self.detectors.items() if detector.fits}
        for batch in images.batches:
            with self._share("fit", "(network and hooks)"):
                features = self.backbone(*batch, views=tuple(dict.fromkeys(views)))
            for name, detector in used.items():
                with self._share("fit", name):
                    detector.update(features)
        for name, detector in used.items():
            with self._share("compute", name):
                self.fitted[name] = taken(self.fitted, detector.compute())
        for detector in used.values():
            detector.reset()
        self.fitted = moved(self.fitted, self.device)

    @torch.inference_mode()
    def test(self, images: Images) -> Tensor:
        """One pass over test images; the scores ``[N, detectors]``."""
        steps = self._steps()
        scores = []
        for batch in images.batches:
            with self._share("test", "(network and hooks)"):
                features = self.backbone(*batch, perturbations=steps)
            columns = []
            for name, detector in self.detectors.items():
                with self._share("test", name):
                    columns.append(detector.score(features, self.fitted.get(name, {})).float())
            scores.append(torch.stack(columns, dim=1))
        return torch.cat(scores)

    @torch.inference_mode()
    def prepare(self, images: Images) -> None:
        """Sets the detectors up for training images; reads the first batch, which a compiler is waited for at."""
        info = self.backbone.info(images.labels.cpu()).sharing()
        for detector in self.detectors.values():
            detector.setup(info)
            detector.to(images.labels.device)
        parts = self._parts()
        self.backbone.configure(
            taps=[tap for part in parts for tap in part.taps],
            gradients=[tap for part in parts for tap in part.gradients],
            attention=any(part.attention for part in parts),
        )
        self.backbone(*next(iter(images.batches)))

    def _parts(self) -> list[Detector]:
        return [part for detector in self.detectors.values() for part in detector.family()]

    def _steps(self) -> list[Perturbation]:
        steps: list[Perturbation] = []
        for name, detector in self.detectors.items():
            if detector.extra_forwards["test"]:
                with torch.inference_mode(False):
                    fitted = {key: value.clone() for key, value in self.fitted.get(name, {}).items()}
                steps += detector.perturbations(fitted)
        return list(dict.fromkeys(steps))

    @contextmanager
    def _share(self, phase: str, name: str) -> Iterator[None]:
        if not self.split:
            yield
            return
        _wait(self.device)
        start = time.process_time()
        yield
        _wait(self.device)
        self.shares[phase][name] += time.process_time() - start
