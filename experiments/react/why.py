"""How much of a feature a percentile clips: ``python experiments/react/why.py``; writes results/why.md.

Reads runs/features. c is the p-th percentile of all entries of the training features; the share that is clipped is a
share of the sum of an image's feature.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lightning_ood.data.datamodule import data_root
from lightning_ood.data.opening import open_set
from lightning_ood.engine.module import OODModule, Reading
from lightning_ood.networks import cifar
from lightning_ood.ops.quantiles import percentile
from lightning_ood.report.markdown import markdown_table

NETWORKS = {
    "DenseNet": (cifar.DenseNet, "checkpoints/densenet_bc_100_12_cifar10.pth.tar"),
    "ResNet-20": (cifar.ResNet20, "checkpoints/resnet20_cifar10.th"),
}
SETS = ("cifar10/test", "tiny_imagenet", "textures", "sun")
PERCENTILES = (80, 90, 95, 97, 99, 99.5, 99.9)


@torch.inference_mode()
def pooled(module: OODModule, name: str) -> tuple[Tensor, Tensor]:
    """Penultimate features ``[N, D]`` and logits of a set, in batches as the sweeps have them."""
    images = open_set(name, data_root(), module.preprocess.transform())
    features = []
    for index in torch.arange(len(images)).split(100):
        pixels = torch.stack([images[i].image for i in index.tolist()])  # type: ignore[misc]
        features.append(module.backbone(pixels, None, index))
    return torch.cat([f.pooled for f in features]), torch.cat([f.logits for f in features])


def main() -> None:
    lines = []
    for name, (network, weights) in NETWORKS.items():
        module = OODModule(network=network(), weights=weights, reading=Reading(cache="runs/features"))
        module.backbone.configure()
        train, _ = pooled(module, "cifar10/train")
        sets = {each: pooled(module, each)[0] for each in SETS}
        head = module.backbone.head
        assert head is not None
        known = head(sets["cifar10/test"]).argmax(dim=1)
        zero, median = (train < 0.01).double().mean(), train.median()
        lines += [f"**{name}**: {train.shape[1]} features, median {median:.3f}, {100 * zero:.0f} % below 0.01", ""]
        heads = ["p", "c", *(f"clipped, {each.replace('cifar10/test', 'ID')}" for each in SETS), "same class, ID"]
        rows = []
        for p in PERCENTILES:
            c = float(percentile(train, p))
            cut = [(z - z.clamp(max=c)).sum(1) / z.sum(1) for z in sets.values()]
            same = (head(sets["cifar10/test"].clamp(max=c)).argmax(dim=1) == known).double().mean()
            cells = [f"{100 * share.mean():.0f}" for share in cut]
            rows.append([str(p), f"{c:.2f}", *cells, f"{100 * same:.0f}"])
        lines += [markdown_table(heads, rows, labels=0), ""]
    text = "\n".join(lines)
    (Path(__file__).parent / "results" / "why.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
