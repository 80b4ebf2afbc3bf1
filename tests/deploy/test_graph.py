"""Graphs for other runtimes: equal to PyTorch on real images, with any batch; what needs a gradient is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_ood import load_detector
from lightning_ood.deploy.folder import read_header
from lightning_ood.deploy.graph import run_onnx, run_torch
from lightning_ood.detectors import KNN, MDS, NAC, NAP, ODIN, Energy, FeatureNorm, Fusion, LINe, ReAct, ViM
from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.nac import NACLayer
from lightning_ood.errors import InputError
from tests.helpers.exported import write
from tests.helpers.tiny import Images


def many() -> dict[str, Detector]:
    """Of every kind: logits, feature, weights, maps, bank, covariance, and a combination."""
    return {
        **{"fusion": Fusion(), "nap": NAP(), "feature_norm": FeatureNorm(), "line": LINe(), "react": ReAct()},
        **{"knn": KNN(k=5), "mds": MDS(), "vim": ViM(dim=8), "energy": Energy(), "odin": ODIN(epsilon=0.0)},
    }


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_the_graph_equals_the_folder(form: str, tmp_path: Path) -> None:
    chosen = many() if form == "torch" else {name: many()[name] for name in ("fusion", "feature_norm")}
    folder = write(tmp_path / "out", chosen, graph=form)
    loaded = load_detector(folder, device="cpu", trust_code=True)
    file = folder / {"onnx": "detector.onnx", "torch": "detector.pt2"}[form]
    assert file.name in read_header(folder)["files"]
    images = [Images(9, seed=6)[i][0] for i in range(9)] + [Images(9, seed=6, shift=130)[i][0] for i in range(9)]
    raw = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 255
    for accept in (0.95, 0.7):
        found = loaded.predict(images, accept=accept)
        share = torch.tensor([accept])
        run = run_torch(file, raw, share) if form == "torch" else run_onnx(file, raw.numpy(), share.numpy())
        logits, scores, p_values, is_ood = run
        for i, one in enumerate(found):
            assert np.allclose(scores[i], list(one.scores.values()), rtol=1e-4, atol=1e-4)
            assert np.allclose(p_values[i], list(one.p_values.values()), atol=1.5 / 121)  # a score next to a tie
            assert logits[i].argmax() == one.class_index
        assert [bool(flag) for flag in is_ood[:, 0]] == [one.p_value <= 1 - accept + 1e-6 for one in found]


@pytest.mark.parametrize("kind", [NAC({"last": NACLayer()}), ODIN(epsilon=0.01)], ids=["nac", "odin"])
def test_what_needs_a_gradient_is_refused(kind: Detector, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="an exported graph computes none"):
        write(tmp_path / "out", {"energy": Energy(), "other": kind}, graph="onnx")
    assert not (tmp_path / "out").exists()
