"""Fits, exports, predicts and runs the graph of ten detectors on four networks; writes results/networks.md.

    python experiments/deploy/networks.py --output /tmp/exported    # half an hour on two cores; needs the kits' data

Needs ``pip install lightning-ood[onnx]``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from torch import Tensor  # noqa: E402

from lightning_ood import load_detector  # noqa: E402
from lightning_ood.deploy.detector import ExportedDetector  # noqa: E402
from lightning_ood.deploy.inputs import decode, named  # noqa: E402
from lightning_ood.report.markdown import markdown_table  # noqa: E402

DETECTORS = ("nap", "line", "nac", "feature_norm", "react", "knn", "mds", "vim", "energy", "fusion")
IMAGES = {  # config -> images below the data's root; those of the demo where there is no file
    "digits": None,
    "digits_vit": None,
    "cifar10_densenet": ("cifar10/test", "textures"),
    "imagenet_lite0": ("imagenet/scenes", "imagenet/textures"),
}
COUNT = 64  # images of each folder


def call(*arguments: object) -> float:
    """Runs a command of the program; returns its seconds."""
    start = time.perf_counter()
    subprocess.run([sys.executable, str(ROOT / "train.py"), *map(str, arguments)], check=True)
    return time.perf_counter() - start


def exported(name: str, folder: Path) -> float:
    """Fits and exports the detectors; returns the seconds of the export."""
    config = ROOT / "configs" / f"{name}.yaml"
    given = yaml.safe_load(config.read_text())["scoring"]["detectors"]
    common = ["--config", config, "--trainer.default_root_dir", folder / "run"]
    for detector in set(DETECTORS) - set(given):
        common += [f"--scoring.detectors.{detector}", ROOT / "configs" / "detectors" / f"{detector}.yaml"]
    call("fit", *common, "--trainer.logger", "false")
    where = ("--output", folder / "deployed", "--overwrite", "--format", "onnx", "--calibration_share", 0.5)
    return call("export", *common, "--detector", *DETECTORS, *where)


def paths(folders: tuple[str, ...] | None, root: Path, output: Path) -> list[str]:
    """Returns paths of images to decide about."""
    if folders is None:
        subprocess.run([sys.executable, "-m", "tools.demo_images", str(output / "images")], cwd=ROOT, check=True)
        return [one.name for one in named(output / "images")]
    return [one.name for name in folders for one in list(named(root / name))[:COUNT]]


def seconds(call: object, repeats: int = 20) -> float:
    """Returns the median of repeated calls."""
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()  # type: ignore[operator]
        spent.append(time.perf_counter() - start)
    return float(np.median(spent))


def differences(detector: ExportedDetector, images: Tensor, folder: Path) -> tuple[float, float]:
    """Returns the largest difference between graph and PyTorch, relative to values above 1, and the cost of the graph.

    The cost is relative to the bare network under ONNX Runtime, both on one thread.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "detector.onnx"), options)
    mean, std = (torch.tensor(value)[:, None, None] for value in (detector.preprocess.mean, detector.preprocess.std))
    given = {"images": (images * std + mean).numpy(), "accept": np.array([0.95], dtype=np.float32)}
    logits, scores, _, _ = session.run(None, given)
    expected = [value.numpy() for value in detector.score(images)]
    worst = max(
        float((np.abs(found - value) / np.abs(value).clip(1)).max())
        for found, value in zip((logits, scores), expected, strict=True)
    )
    bare = folder.parent / "bare.onnx"
    torch.onnx.export(detector.backbone.network, (images,), bare, input_names=["images"], dynamo=True)
    alone = onnxruntime.InferenceSession(str(bare), options)
    plain = {"images": images.numpy()}
    return worst, seconds(lambda: session.run(None, given)) / seconds(lambda: alone.run(None, plain))


def row(name: str, root: Path, output: Path) -> list[str]:
    """Takes one network through everything; returns its row."""
    folder = output / name
    spent = exported(name, folder)
    chosen = paths(IMAGES[name], root, output)
    call("predict", "--detector", folder / "deployed", "--output", folder / "found.parquet", "--quiet", *chosen)
    detector = load_detector(folder / "deployed", device="cpu")
    tensors = [detector.preprocess.transform()(decode(Path(path))) for path in chosen[:32]]
    worst, cost = differences(detector, torch.stack(tensors), folder / "deployed")
    size = sum(file.stat().st_size for file in (folder / "deployed").iterdir()) / 1e6
    cells = [name, str(len(detector.detectors)), str(len(chosen)), f"{spent:.0f}", f"{size:.1f}"]
    return [*cells, f"{worst:.0e}", f"{cost:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of runs and exported detectors")
    parser.add_argument("--root", type=Path, default=ROOT.parent / "shared" / "data", help="root of the kits' data")
    parser.add_argument("--only", nargs="+", choices=IMAGES, default=list(IMAGES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    heads = ["network", "detectors", "images", "export, s", "folder, MB", "graph - PyTorch", "graph / bare graph"]
    table = markdown_table(heads, [row(name, options.root, options.output) for name in options.only])
    print(table)
    (Path(__file__).parent / "results" / "networks.md").write_text(table + "\n")


if __name__ == "__main__":
    main()
