"""The same methods with pytorch-ood: each with its own ``fit`` and ``predict``, and together in ``Benchmark.evaluate``.

pip install --target /tmp/pytorch_ood --no-deps pytorch-ood    # then PYTHONPATH=/tmp/pytorch_ood
"""

from __future__ import annotations

import copy
import importlib.util
import logging
from typing import Any

import torch
from passes import Images, Times, bare, timed
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_ood.backbone import Backbone

AVAILABLE = importlib.util.find_spec("pytorch_ood") is not None


class Encoder(nn.Module):
    """The network without its classifier; ``maps`` gives the pooled feature the four axes that shapings ask for."""

    def __init__(self, backbone: Backbone, maps: bool = False) -> None:
        super().__init__()
        self.network = copy.deepcopy(backbone.network)
        owner, _, name = backbone.probe.classifiers[0].rpartition(".")
        setattr(self.network.get_submodule(owner), name, nn.Identity())
        self.maps = maps

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.network(images)
        return pooled[:, :, None, None] if self.maps else pooled


def detectors(backbone: Backbone) -> dict[str, Any]:
    """The 18, with the settings of :func:`suites.shared`; shapings of the pooled feature, as published."""
    from pytorch_ood import detector as d

    backbone.configure()
    network, plain, maps = copy.deepcopy(backbone.network), Encoder(backbone), Encoder(backbone, maps=True)
    linear = copy.deepcopy(backbone.classifier[0])
    head = nn.Sequential(nn.Flatten(), linear)
    w, b = linear.weight.detach(), linear.bias.detach()
    width = backbone.probe.num_features
    made = {
        "msp": d.MaxSoftmax(network),
        "maxlogit": d.MaxLogit(network),
        "energy": d.EnergyBased(network),
        "gen": d.GEN(network, M=100),
        "kl_matching": d.KLMatching(network),
        "react": d.ReAct(maps, head),
        "ash": d.ASH(maps, head, percentile=0.9),
        "scale": d.SCALE(maps, head, percentile=0.85),
        "vra": d.VRA(maps, head, 0.6, 0.9),
        "dice": d.DICE(plain, w, b, 0.9),
        "knn": d.KNN(plain, k=50),
        "vim": d.ViM(plain, 512 if width >= 768 else width // 2, w, b),
        "mds": d.Mahalanobis(plain),
        "rmds": d.RMD(plain),
        "she": d.SHE(plain, linear),
        "nnguide": d.NNGuide(plain, linear, k=10),
        "fdbd": d.fDBD(plain, linear),
        "nci": d.NCI(plain, linear, alpha=1e-4),
    }
    return {name: detector.to("cpu") for name, detector in made.items()}


class _Pairs(Dataset[tuple[Tensor, int]]):
    """Every second image is OOD."""

    def __init__(self, images: Images) -> None:
        self.pixels = torch.cat([pixels for pixels, _, _ in images.batches])

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.pixels[index], -(index % 2)


def measure(backbone: Backbone, train: Images, test: Images, batch: int) -> dict[str, dict[str, float | str]]:
    """CPU time of fit and predict of each method as a ratio to a bare pass, and of all in ``Benchmark.evaluate``."""
    logging.getLogger("pytorch_ood").setLevel(logging.ERROR)
    network = backbone.network
    loader = [(pixels, labels) for pixels, labels, _ in train.batches]
    out: dict[str, dict[str, float | str]] = {}
    made = detectors(backbone)
    for name, detector in list(made.items()):
        (base, _), (fit, _) = timed(lambda: bare(network, train), "cpu"), (0.0, 0.0)
        try:
            if getattr(detector, "requires_fit", True):
                fit = timed(lambda d=detector: d.fit(loader), "cpu")[0]
            test_time = timed(lambda d=detector: _predict(d, test), "cpu")[0]
        except (RuntimeError, ValueError, AssertionError) as error:
            out[name] = {"failed": str(error) or type(error).__name__}
            del made[name]
            continue
        out[name] = {"fit": fit / base, "test": test_time / base * len(train.batches) / len(test.batches)}
    out["Benchmark.evaluate"] = {"test": _evaluate(list(made.values()), network, test, batch)}
    return out


@torch.inference_mode()
def _predict(detector: Any, images: Images) -> None:
    for pixels, _, _ in images.batches:
        detector.predict(pixels)


def _evaluate(fitted: list[Any], network: nn.Module, images: Images, batch: int) -> float:
    from pytorch_ood.benchmark import Benchmark

    pairs = _Pairs(images)

    class Own(Benchmark):
        ood_names = ("ood",)

        def train_set(self) -> Any:
            return pairs

        def test_sets(self, known: bool = True, unknown: bool = True) -> list[Any]:
            return [pairs]

    base: Times = timed(lambda: bare(network, images), "cpu")
    return timed(lambda: Own().evaluate(fitted, {"batch_size": batch}), "cpu")[0] / base[0]
