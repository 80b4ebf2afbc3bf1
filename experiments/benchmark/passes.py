"""The passes that are measured: a bare forward, a fit, a test; and their clock."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_ood.backbone import Backbone
from lightning_ood.detectors.base import Detector
from lightning_ood.suite import DetectorSuite, Step, T

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


@contextmanager
def refusing_waits(refuse: bool) -> Iterator[None]:
    """Makes an operation that lets the host wait for the GPU raise, where asked for."""
    if not refuse:
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@torch.inference_mode()
def bare(network: torch.nn.Module, images: Images) -> None:
    """What everything is compared with."""
    for pixels, _, _ in images.batches:
        network(pixels)


class MeasuredSuite(DetectorSuite):
    """A suite that adds up the CPU seconds of each detector's steps; on a GPU that makes the host wait for it.

    Attributes:
        shares: fit, compute or test -> detector -> CPU seconds.
    """

    def __init__(self, detectors: Mapping[str, Detector], device: str = "cpu") -> None:
        super().__init__(detectors)
        self.device = device
        self.shares: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def attempt(self, step: Step, name: str, call: Callable[[], T]) -> T | None:
        """Measures the step."""
        if step == "setup":
            return super().attempt(step, name, call)
        with self.share("test" if step == "score" else step, name):
            return super().attempt(step, name, call)

    @contextmanager
    def share(self, step: str, name: str) -> Iterator[None]:
        """Adds the CPU seconds of a block."""
        _wait(self.device)
        start = time.process_time()
        yield
        _wait(self.device)
        self.shares[step][name] += time.process_time() - start


@dataclass
class Passes:
    """Fits and scores a suite as the command line does, without its data loading and progress bar.

    Attributes:
        backbone: the network.
        suite: the detectors; a MeasuredSuite also measures each of them, and the network.
        device: where the network is.
        refuse_waits: raise where a batch lets the host wait for the GPU.
    """

    backbone: Backbone
    suite: DetectorSuite
    device: str = "cpu"
    refuse_waits: bool = False

    @torch.inference_mode()
    def prepare(self, images: Images) -> None:
        """Sets the suite up for training images; reads the first batch, which a compiler is waited for at."""
        self.suite.fitted = {}
        self.suite.setup(self.backbone.info(images.labels.cpu()))
        self.suite.to(images.labels.device)
        self.backbone.configure(self.suite.reads("fit"))
        self.backbone(*next(iter(images.batches)))

    @torch.inference_mode()
    def fit(self, images: Images) -> None:
        """One pass over training images, after :meth:`prepare`."""
        with refusing_waits(self.refuse_waits):
            for batch in images.batches:
                with self._network("fit"):
                    features = self.backbone(*batch)
                self.suite.update(features)
        for error in self.suite.compute().values():
            raise error
        self.suite.to(self.device)

    def prepare_test(self) -> None:
        """Plans what the test reads, given the fit."""
        self.backbone.configure(self.suite.reads("test"))

    @torch.inference_mode()
    def test(self, images: Images) -> Tensor:
        """One pass over test images, after :meth:`prepare_test`; the scores ``[N, detectors]``."""
        scores = []
        with refusing_waits(self.refuse_waits):
            for batch in images.batches:
                with self._network("test"):
                    features = self.backbone(*batch)
                scores.append(self.suite.score(features))
        return torch.cat(scores)

    def _network(self, step: str) -> AbstractContextManager[None]:
        measured = isinstance(self.suite, MeasuredSuite)
        return self.suite.share(step, "(network and hooks)") if measured else nullcontext()
