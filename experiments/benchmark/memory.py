"""Memory and time where sets are large: images through a tiny network, and features of ImageNet's size.

python experiments/benchmark/memory.py images 2000 20000     # peak memory of a fit; a process for each
python experiments/benchmark/memory.py imagenet [--rows 8192]  # state and time of each detector
python experiments/benchmark/memory.py imagenet --width 1280 --suite configs/suites/all.yaml
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from passes import MeasuredSuite, Passes
from suites import core, nac4_of, of_last
from torch import nn
from torchmetrics import Metric

from lightning_ood.backbone import Backbone
from lightning_ood.commands.check.make import make_detector
from lightning_ood.detectors import list_detectors
from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.feature_norm import FeatureNorm
from lightning_ood.features import Features, Head, NetworkInfo
from lightning_ood.statistics.sample import state_bytes
from lightning_ood.suite import DetectorSuite
from lightning_ood.views import Jigsaw

CLASSES, WIDTH, IMAGES = 1000, 2048, 1_281_167
BATCH = 256


def tiny() -> nn.Module:
    """A small network with three blocks."""

    def block(inside: int, outside: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inside, outside, 3, 2, 1), nn.BatchNorm2d(outside), nn.ReLU())

    torch.manual_seed(0)
    net = nn.Sequential(block(3, 16), block(16, 32), block(32, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return net.append(nn.Linear(64, 10)).eval().requires_grad_(False)


class Stream:
    """Random batches that are made as they are read; nothing is kept but the labels."""

    def __init__(self, count: int) -> None:
        self.labels = torch.arange(count) % 10

    @property
    def batches(self) -> Any:
        """Pixels, labels, index."""
        for index in torch.arange(len(self.labels)).split(BATCH):
            yield torch.randn(len(index), 3, 32, 32), self.labels[index], index


def peak() -> float:
    """Largest resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fit_images(count: int) -> dict[str, float]:
    """Fits all detectors, jigsaw included, on random images."""
    backbone = Backbone(tiny(), (32, 32))
    taps = ("0", "1", "2")
    norm = FeatureNorm(blocks=[*taps])
    suite = DetectorSuite({**of_last(), **core(), **nac4_of(taps), "feature_norm_jigsaw": norm})
    start = time.process_time()
    passes, images = Passes(backbone, suite), Stream(count)
    passes.prepare(images)  # type: ignore[arg-type]
    passes.fit(images)  # type: ignore[arg-type]
    return {
        "images": count,
        "peak_mb": peak(),
        "cpu_seconds": time.process_time() - start,
        "detectors": len(suite.detectors),
    }


def states(detectors: dict[str, Detector]) -> dict[str, int]:
    """What each detector and its parts sum into; a sketch that several hold counts for the first."""
    counted: set[int] = set()
    found: dict[str, int] = {}
    for name, detector in detectors.items():
        own = [m for m in detector.modules() if isinstance(m, Metric) and id(m) not in counted]
        counted |= {id(metric) for metric in own}
        found[name] = sum(state_bytes(metric) for metric in own)
    return found


def of_suite(path: Path) -> dict[str, Detector]:
    """The detectors of a suite's file."""
    list_detectors()  # a short name is that of an imported class
    specs = yaml.safe_load(path.read_text())["scoring"]["detectors"]
    whole = {n: yaml.safe_load((path.parent / s).read_text()) if isinstance(s, str) else s for n, s in specs.items()}
    return {name: made for name, spec in whole.items() if (made := make_detector(name, spec)) is not None}


def imagenet(rows: int, bank: int, width: int, suite_file: Path | None) -> dict[str, Any]:
    """Random features of ImageNet's size straight into ``update``: bytes of state, and milliseconds per image."""
    draw = torch.Generator().manual_seed(0)
    head = Head(torch.randn(CLASSES, width, generator=draw) * 0.03, torch.zeros(CLASSES))
    labels = torch.randint(CLASSES, (IMAGES,), generator=draw)
    channels = {"layer1": width // 8, "layer2": width // 4, "layer3": width // 2, "last": width}  # as a ResNet-50 has
    maps = {tap: torch.Size([count, 1, 1]) for tap, count in channels.items()}  # a pixel: pooling is not measured
    info = NetworkInfo(width, CLASSES, head, maps, tuple(maps), None, labels)
    parts: dict[str, Detector] = {**of_last(bank), **core(), **nac4_of(tuple(maps)), "jigsaw": FeatureNorm()}
    detectors = of_suite(suite_file) if suite_file else parts
    suite = MeasuredSuite({name: detector for name, detector in detectors.items() if detector.requires_fit})
    suite.setup(info)
    with torch.inference_mode():
        for index in torch.randperm(IMAGES, generator=draw)[:rows].split(BATCH):
            pooled = torch.randn(len(index), width, generator=draw).relu_()
            seen = {tap: torch.randn(len(index), *shape, generator=draw).relu_() for tap, shape in maps.items()}
            features = Features(head(pooled), pooled, head, seen, seen, None, labels[index], index)
            features = replace(features, views={Jigsaw(): features})
            suite.update(features)
    seconds = suite.shares["fit"]
    state = {name: size / 1e6 for name, size in states(suite.detectors).items()}
    with torch.inference_mode():
        start = time.process_time()
        failed = {name: str(error) for name, error in suite.compute().items()}
    finish = time.process_time() - start
    return {
        "rows": rows,
        "bank": bank,
        "state_mb": state,
        "state_mb_together": sum(state.values()),
        "ms_per_image": {name: 1e3 * s / rows for name, s in seconds.items()},
        "ms_per_image_together": 1e3 * sum(seconds.values()) / rows,
        "hours_1.28M": sum(seconds.values()) / rows * IMAGES / 3600,
        "finish_seconds": finish,
        "peak_mb": peak(),
        "detectors": len(detectors),
        "failed": failed,
    }


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["images", "imagenet"])
    parser.add_argument("counts", nargs="*", type=int)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--bank", type=int, default=50_000, help="rows of each bank; the detectors' default")
    parser.add_argument("--width", type=int, default=WIDTH, help="of the feature")
    parser.add_argument("--suite", type=Path, help="the detectors of a file in configs/suites, with their own banks")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "imagenet":
        print(json.dumps(imagenet(given.rows, given.bank, given.width, given.suite), indent=1))
    elif len(given.counts) == 1:
        print(json.dumps(fit_images(given.counts[0])))
    else:
        for count in given.counts:  # each in its own process: a peak never falls
            subprocess.run([sys.executable, str(Path(__file__)), "images", str(count)], check=True)


if __name__ == "__main__":
    main()
