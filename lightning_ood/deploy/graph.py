"""One graph of tensor operations from image to decision, for ONNX Runtime and torch.export."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_ood.deploy.detector import ExportedDetector
from lightning_ood.errors import InputError
from lightning_ood.ops.files import write_whole
from lightning_ood.suite import DetectorSuite

FILES = {"onnx": "detector.onnx", "torch": "detector.pt2"}
OUTPUTS = ("logits", "scores", "p_values", "is_ood")
CLOSE = 1e-4  # largest difference, relative to the range of the scores, between the graph and PyTorch


class Graph(nn.Module):
    """Normalises images, runs the network and scores its features.

    Args:
        detector: an exported detector on the CPU, none of whose detectors needs a gradient.
    """

    input_mean: Tensor
    input_std: Tensor
    calibration_scores: Tensor

    def __init__(self, detector: ExportedDetector) -> None:
        super().__init__()
        check_graph(detector.suite)
        self.backbone, self.suite = detector.backbone, detector.suite
        preprocess = detector.preprocess
        self.register_buffer("input_mean", torch.tensor(preprocess.mean)[:, None, None])  # [3, 1, 1]
        self.register_buffer("input_std", torch.tensor(preprocess.std)[:, None, None])
        ordered = [detector.calibration.ordered[name] for name in detector.detectors]
        self.register_buffer("calibration_scores", torch.from_numpy(np.stack(ordered, axis=1)))  # [n, detectors]
        self.fitted = {name: dict(values) for name, values in detector.suite.fitted.items()}

    def forward(self, images: Tensor, accept: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decides about images.

        Args:
            images: ``[B, 3, H, W]``, RGB in [0, 1], resized and cropped to the network's size.
            accept: ``[1]``, share of ID images to accept.

        Returns:
            logits ``[B, K]``; scores and p-values ``[B, detectors]``; decisions of each detector ``[B, detectors]``.
        """
        features = self.backbone.trace((images - self.input_mean) / self.input_std)
        columns = [one.score(features, self.fitted.get(name, {})) for name, one in self.suite.detectors.items()]
        scores = torch.stack([column.float() for column in columns], dim=1)  # [B, detectors]
        below = (self.calibration_scores[None] <= scores[:, None]).sum(dim=1)  # [B, n, detectors] -> [B, detectors]
        p_values = (1 + below).float() / (len(self.calibration_scores) + 1)
        return features.logits, scores, p_values, p_values <= 1 - accept + 1e-6


def check_graph(suite: DetectorSuite) -> None:
    """Refuses detectors that read a gradient or perturbed images.

    Raises:
        InputError: if there is one; names it and the reason.
    """
    for name, one in suite.detectors.items():
        reads, perturbed = one.reads, one.perturbations(suite.fitted.get(name, {}))
        if reads.gradients or perturbed:
            why = f"the gradient by {', '.join(reads.gradients)}" if reads.gradients else "images after a gradient step"
            raise InputError(
                f"detector {name!r} reads {why}, and an exported graph computes none; export it as a folder, or leave "
                "it out"
            )


def write_graph(detector: ExportedDetector, path: Path, form: str) -> Path:
    """Writes the graph of a detector, and compares its outputs with those of PyTorch.

    Args:
        detector: an exported detector on the CPU.
        path: the file, ``.onnx`` or ``.pt2``.
        form: ``onnx`` or ``torch``.

    Raises:
        InputError: if a detector needs a gradient, an operation has no counterpart, onnx is not installed, or the
            outputs differ.
    """
    graph = Graph(detector).eval()
    height, width = detector.preprocess.size
    generator = torch.Generator().manual_seed(0)
    images, accept = torch.rand(3, 3, height, width, generator=generator), torch.tensor([detector.accept])
    program = _program(graph, images, accept)
    if form == "torch":
        write_whole(path, lambda partial: _save_program(program, partial))
    else:
        write_whole(path, lambda partial: _save_onnx(program, partial, images, accept))
    for count in (1, 5):  # other batches than the one that was traced
        images = torch.rand(count, 3, height, width, generator=generator)
        found = run_torch(path, images, accept) if form == "torch" else run_onnx(path, images.numpy(), accept.numpy())
        with torch.inference_mode():
            expected = graph(images, accept)
        _compare(found, [value.numpy() for value in expected], path)
    return path


def _program(graph: Graph, images: Tensor, accept: Tensor) -> Any:
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad():
            return torch.export.export(graph, (images, accept), dynamic_shapes=({0: batch}, None), strict=False)
    except Exception as error:  # torch.export raises whatever an operation leads it to
        raise InputError(
            f"torch.export cannot trace this network with these detectors ({_first(error)}); export a folder instead, "
            "or leave a detector out"
        ) from error


def _save_program(program: Any, path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(program, file)


def _save_onnx(program: Any, path: Path, images: Tensor, accept: Tensor) -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError("--format onnx needs onnx and onnxscript: pip install lightning-ood[onnx]") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                program,
                (images, accept),
                input_names=["images", "accept"],
                output_names=list(OUTPUTS),
                dynamo=True,
                verbose=False,
                external_data=False,
            )
            assert made is not None
            made.save(str(path), external_data=False)
    except Exception as error:
        raise InputError(
            f"ONNX has no counterpart of an operation of these detectors ({_first(error)}); leave a detector out, or "
            "export with --format torch"
        ) from error


def run_onnx(path: Path, images: np.ndarray, accept: np.ndarray) -> list[np.ndarray]:
    """Runs a graph under ONNX Runtime on the CPU: logits, scores, p-values, decisions."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, {"images": images, "accept": accept})
    return found


def run_torch(path: Path, images: Tensor, accept: Tensor) -> list[np.ndarray]:
    """Runs a program of torch.export on the CPU: logits, scores, p-values, decisions."""
    with path.open("rb") as file, torch.inference_mode():
        return [value.numpy() for value in torch.export.load(file).module()(images, accept)]


def _compare(found: list[np.ndarray], expected: list[np.ndarray], path: Path) -> None:
    for name, one, other in zip(OUTPUTS[:2], found, expected, strict=False):
        worst = float(np.abs(one - other).max()) / max(float(np.abs(other).max()), 1.0)
        if not worst <= CLOSE:
            raise InputError(
                f"{path}: {name} of the graph differ from PyTorch's by {worst:.1e}; export a folder instead"
            )


def _first(error: BaseException) -> str:
    """Returns the first line of the innermost cause, without colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[\d*m", "", str(error)).strip()
    return (text.splitlines() or [type(error).__name__])[0][:200]
