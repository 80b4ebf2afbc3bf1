"""What fitting and scoring cost beside a bare forward over the same images.

python experiments/benchmark/run.py [resnet18 densenet vit_tiny] [--images 2048] [--repeat 5] [--out DIR]
python experiments/benchmark/run.py resnet50 vit_b_16 --device cuda --images 20000 --precision bf16 \
    --channels_last --compile inductor --refuse_waits

Writes DIR/<network>.json after every repetition. Images are random and in memory; see README.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import peer
import timm
import torch
import torchmetrics
from passes import Images, MeasuredSuite, Passes, bare, timed
from suites import BANK, NETWORKS, Network, core, everything, nac4, shared, views

from lightning_ood.backbone import Backbone
from lightning_ood.metrics.intervals import auroc_interval, fpr95_draws, fpr95_interval
from lightning_ood.metrics.rates import compare
from lightning_ood.suite import DetectorSuite


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["resnet18", "densenet", "vit_tiny"])
    parser.add_argument("--images", type=int, default=2048, help="for training, and as many for the test")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU: one, so that a busy machine disturbs less")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32", help="of the network")
    parser.add_argument("--channels_last", action="store_true", help="images and weights with the channel innermost")
    parser.add_argument("--compile", help="backend of torch.compile, such as inductor, where no gradient is taken")
    parser.add_argument("--refuse_waits", action="store_true", help="raise where a batch makes the host wait for a GPU")
    parser.add_argument("--suites", nargs="*", default=["shared", "core", "nac4", "everything", "views"])
    parser.add_argument("--bank", type=int, default=BANK, help="rows of each bank")
    parser.add_argument("--no_peer", action="store_true", help="leave pytorch-ood out")
    parser.add_argument("--metrics", action="store_true", help="only metrics and intervals, 1.3 M scores x 30")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    return parser.parse_args()


def suites(network: Network, names: list[str], bank: int) -> dict[str, Any]:
    """Those that are asked for."""
    made = {
        "shared": lambda: shared(bank),
        "core": core,
        "nac4": lambda: nac4(network),
        "everything": lambda: everything(network, bank),
        "views": views,
    }
    return {name: made[name]() for name in names}


@torch.inference_mode()
def centre_logits(backbone: Backbone, images: Images) -> Images:
    """Centres the logits, so that a network with random weights predicts every class; predictions become labels."""
    logits = [backbone.network(pixels) for pixels, _, _ in images.batches]
    mean = torch.cat(logits).float().mean(0)
    last = backbone.classifier[0]
    with torch.inference_mode(False):
        last.bias.data -= mean.clone()
    return images.labelled([(part.float() - mean).argmax(1) for part in logits])


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """Where and with what it was measured."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    versions = {m.__name__: m.__version__ for m in (torch, timm, torchmetrics, np)}
    gpu = torch.cuda.get_device_name() if options.device == "cuda" else None
    return {"cpu": cpu, "gpu": gpu, "threads": torch.get_num_threads(), "python": platform.python_version(), **versions}


def repetition(
    backbone: Backbone, groups: dict[str, Any], train: Images, test: Images, device: str, refuse_waits: bool = False
) -> dict[str, dict[str, float]]:
    """Every group once, as ratios (CPU time and wall) to the bare passes before and after it."""
    out: dict[str, dict[str, float]] = {}
    before = timed(lambda: bare(backbone.network, train), device)
    out["bare"] = {"cpu": before[0], "wall": before[1]}
    for name, suite in groups.items():
        passes = Passes(backbone, DetectorSuite(suite), device, refuse_waits)
        passes.prepare(train)
        fit = timed(lambda p=passes: p.fit(train), device)
        passes.prepare_test()
        test_time = timed(lambda p=passes: p.test(test), device)
        backbone.configure()
        after = timed(lambda: bare(backbone.network, test), device)
        cpu, wall = ((a + b) / 2 for a, b in zip(before, after, strict=True))
        out[name] = {"fit": fit[0] / cpu, "test": test_time[0] / cpu}
        out[name] |= {"fit_wall": fit[1] / wall, "test_wall": test_time[1] / wall}
        before = after
    return out


def median(repetitions: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Of each figure over the repetitions."""
    first = repetitions[0]
    return {n: {k: statistics.median(r[n][k] for r in repetitions) for k in first[n]} for n in first}


def rates(medians: dict[str, dict[str, float]], images: int) -> dict[str, dict[str, float]]:
    """Images per second of the wall, bare and with each group."""
    bare = images / medians["bare"]["wall"]
    groups = {name: figures for name, figures in medians.items() if name != "bare"}
    return {"bare": {"forward": bare}} | {
        name: {phase: bare / figures[f"{phase}_wall"] for phase in ("fit", "test")} for name, figures in groups.items()
    }


def shares(backbone: Backbone, network: Network, train: Images, test: Images, device: str) -> dict[str, Any]:
    """The share of each detector in one run of all of them, in percent of a bare pass."""
    base = timed(lambda: bare(backbone.network, train), device)[0]
    suite = MeasuredSuite(everything(network), device)
    passes = Passes(backbone, suite, device=device)
    passes.prepare(train)
    passes.fit(train)
    passes.prepare_test()
    passes.test(test)
    return {phase: {n: 100 * s / base for n, s in found.items()} for phase, found in suite.shares.items()}


def metrics(scores: int = 1_300_000, detectors: int = 30, sets: int = 5) -> dict[str, float]:
    """CPU seconds of every metric and interval of many scores."""
    draw = np.random.default_rng(0)
    known, other = scores // 2, scores // 2 // sets
    start = time.process_time()
    for _ in range(detectors):
        id_scores = draw.normal(1, 1, known).astype(np.float32)
        compared = [compare(id_scores, draw.normal(0, 1, other).astype(np.float32)) for _ in range(sets)]
        for k, comparison in enumerate(compared):
            found = comparison.values()
            auroc_interval([comparison])
            fpr95_interval(fpr95_draws(comparison, str(k)), found["fpr95"])
        auroc_interval(compared)
    return {"scores": scores, "detectors": detectors, "cpu_seconds": time.process_time() - start}


def benchmark(name: str, options: argparse.Namespace) -> None:
    """Measures one network."""
    network, device = NETWORKS[name], options.device
    backbone = network.backbone(device, options.channels_last, options.compile)
    classes = backbone.probe.num_classes
    train, test = (Images.random(options.images, network.size, network.batch, device, seed) for seed in (0, 1))
    train = centre_logits(backbone, train)
    groups, done = suites(network, options.suites, options.bank), []
    result: dict[str, Any] = {"machine": machine(options), "images": options.images, "classes": classes}
    result |= {
        "batch": network.batch,
        "bank": options.bank,
        "width": backbone.probe.num_features,
        "detectors": {n: len(s) for n, s in groups.items()},
    }

    def save(**parts: Any) -> None:
        result.update(parts)
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{name}.json").write_text(json.dumps(result, indent=1))

    for k in range(options.repeat):
        done.append(repetition(backbone, groups, train, test, device, options.refuse_waits))
        save(repetitions=k + 1, median=median(done), images_per_second=rates(median(done), options.images))
        print(name, k + 1, json.dumps(result["median"]), flush=True)
    save(shares=shares(backbone, network, train, test, device))
    if options.no_peer or device == "cuda" or not peer.AVAILABLE:
        why = "left out" if options.no_peer else "not installed" if not peer.AVAILABLE else "measured on a CPU alone"
        print(f"pytorch-ood: {why}")
        return
    save(pytorch_ood=peer.measure(backbone, train, test, network.batch))
    print(name, json.dumps(result["pytorch_ood"]), flush=True)


def main() -> None:
    """Measures what the command line asks for."""
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.metrics:
        print(json.dumps(metrics()))
        return
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    for name in options.networks:
        with torch.autocast(options.device, dtype, enabled=options.precision == "bf16"):
            benchmark(name, options)


if __name__ == "__main__":
    main()
