"""Features of two CIFAR-10 networks on ID, OOD and pseudo-OOD images, computed once; fusion/ and nap_weight/ read them.

python experiments/kit.py densenet resnet20 [--root data] [--cache runs/kit]

One file per network and set, some 350 MB for 4000 images of the DenseNet. Half an hour on one CPU core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lightning_ood.backbone import Backbone
from lightning_ood.data.datamodule import data_root
from lightning_ood.data.opening import open_set
from lightning_ood.features import Features, NetworkInfo, Reads
from lightning_ood.networks import cifar
from lightning_ood.networks.build import build
from lightning_ood.views import Blur, Crop, Invert, Jigsaw, Noise, PhaseScramble, Rotate, View

NETWORKS = {
    "densenet": (cifar.DenseNet, "checkpoints/densenet_bc_100_12_cifar10.pth.tar"),
    "resnet20": (cifar.ResNet20, "checkpoints/resnet20_cifar10.th"),
}
TRAIN, TEST, OOD = "cifar10/train", "cifar10/test", ("textures", "sun", "tiny_imagenet")
VIEWS: dict[str, View] = {
    "jigsaw 2x2": Jigsaw(2),
    "jigsaw 3x3": Jigsaw(3),
    "jigsaw 4x4": Jigsaw(4),
    "jigsaw 8x8": Jigsaw(8),
    "rotation": Rotate(),
    "blur": Blur(),
    "noise 1": Noise(1.0),
    "noise 0.5": Noise(0.5),
    "negative": Invert(),
    "scrambled phase": PhaseScramble(),
    "crop 3/8": Crop(0.375),
    "crop 0.6": Crop(0.6),
}
EVERY = 2  # views are of every second training image


class Kit:
    """What a network gives for every set and view; what is not in the cache is computed.

    Args:
        network: a key of ``NETWORKS``.
        root: of the data.
        cache: folder of the features.
    """

    def __init__(self, network: str, root: Path, cache: Path) -> None:
        make, weights = NETWORKS[network]
        built = build(network=make(), weights=weights, root=root)
        self.network, self.root, self.cache = network, root, cache / network
        self.transform = built.preprocess.transform()
        self.backbone = Backbone(built.network.eval(), built.preprocess.size)
        self.backbone.configure(Reads(("last",)))

    def info(self) -> NetworkInfo:
        """What detectors are told."""
        return self.backbone.info(self.features(TRAIN).labels)

    def features(self, name: str) -> Features:
        """Of a set."""
        return self._read(name, name, None, 1)

    def view(self, name: str) -> Features:
        """Of every second training image, changed by a view."""
        return self._read(name, TRAIN, VIEWS[name], EVERY)

    def _read(self, name: str, folder: str, view: View | None, every: int) -> Features:
        path = self.cache / f"{name.replace('/', '-').replace(' ', '_')}.pt"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(self._compute(folder, view, every), path)
        parts = torch.load(path, weights_only=True)
        index = torch.arange(0, len(parts["logits"]) * every, every)
        maps = {"last": parts["last"]}
        return Features(parts["logits"], parts["pooled"], self.backbone.head, maps, labels=parts["labels"], index=index)

    @torch.no_grad()
    def _compute(self, folder: str, view: View | None, every: int) -> dict[str, Tensor]:
        images = open_set(folder, self.root, self.transform)
        batches, labels = [], []
        for chosen in torch.arange(0, len(images), every).split(100):
            items = [images[i] for i in chosen.tolist()]
            pixels = torch.stack([item.image for item in items if item.image is not None])
            batches.append(self.backbone(view(pixels, chosen) if view else pixels, None, chosen))
            labels += [item.label for item in items]
        parts = {
            "logits": torch.cat([b.logits for b in batches]),
            "pooled": torch.cat([b.pooled for b in batches]),
            "last": torch.cat([b.maps["last"] for b in batches]),
        }
        return {**parts, "labels": torch.tensor(labels)}


def arguments(text: str | None, options: Sequence[str] | None = None) -> tuple[list[str], Path, Path]:
    """The command line that the scripts share: networks, root of the data, cache."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), help=f"some of {', '.join(NETWORKS)}")
    parser.add_argument("--root", default=None, help="of the data; LIGHTNING_OOD_DATA or `data` by default")
    parser.add_argument("--cache", type=Path, default=Path("runs/kit"), help="folder of the features")
    given = parser.parse_args(options)
    return given.networks, data_root(given.root), given.cache


if __name__ == "__main__":
    names, root, cache = arguments(__doc__)
    for name in names:
        kit = Kit(name, root, cache)
        for each in (TRAIN, TEST, *OOD):
            print(name, each, len(kit.features(each)), flush=True)
        for each in VIEWS:
            print(name, each, len(kit.view(each)), flush=True)
