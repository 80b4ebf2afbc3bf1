"""Does NAC-ME find the checkpoint that does well under shift, and does validation accuracy find it better?

``python experiments/nac_me/run.py`` trains the digits network, evaluates every epoch, and writes checkpoints.csv,
table.md and correlation.png to results/.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from report import write
from torch import Tensor
from torch.utils.data import Subset

from lightning_ood.backbone.inspect import evaluating
from lightning_ood.data.datamodule import IDSets, OODDataModule
from lightning_ood.data.digits import Digits
from lightning_ood.detectors.nac_me import NACME
from lightning_ood.engine.module import OODModule, Training
from lightning_ood.ops.hashing import hash_index

RESULTS = Path(__file__).parent / "results"
ALPHAS, SAMPLES = (0.1, 1.0, 10.0, 100.0), (5, 50, 500)  # 0.1 and 500 are the authors'
VALIDATION = 0.2  # of the training images


def noisy(image: Image.Image, strength: float, index: int) -> Image.Image:
    pixels = np.asarray(image) / 255
    noise = np.random.default_rng(index).normal(0, strength, pixels.shape[:2])[..., None]
    return Image.fromarray(np.uint8(255 * np.clip(pixels + noise, 0, 1)))


SHIFTS: dict[str, tuple[Callable[[Image.Image, float, int], Image.Image], tuple[float, ...]]] = {
    "rotation": (lambda image, degrees, _: TF.rotate(image, degrees, TF.InterpolationMode.BILINEAR), (15, 30)),
    "blur": (lambda image, sigma, _: TF.gaussian_blur(image, [31, 31], [sigma, sigma]), (2, 3)),
    "noise": (noisy, (0.2, 0.4)),
    "contrast": (lambda image, factor, _: TF.adjust_contrast(image, factor), (0.5, 0.3)),
}


def shifted_sets(transform: Callable[[Image.Image], Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """``clean`` and ``<shift> <strength>`` -> test images ``[N, 3, 32, 32]``; their labels."""
    digits = Digits("test")
    images = [digits[i][0] for i in range(len(digits))]
    sets = {"clean": torch.stack([transform(image) for image in images])}
    for name, (change, strengths) in SHIFTS.items():
        for s in strengths:
            sets[f"{name} {s}"] = torch.stack([transform(change(image, s, i)) for i, image in enumerate(images)])
    return sets, torch.tensor(digits.targets)


class Judge(L.Callback):
    """After each epoch: validation accuracy, NAC-ME of the training images in all settings, accuracy under shift."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rows: list[dict[str, float]] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: OODModule) -> None:  # type: ignore[override]
        transform = pl_module.preprocess.transform()
        self.sets, self.labels = shifted_sets(transform)
        training = trainer.datamodule.train_set  # type: ignore[attr-defined]
        self.images = torch.stack([training[i].image for i in range(len(training))])
        self.targets = training.labels

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: OODModule) -> None:  # type: ignore[override]
        row: dict[str, float] = {"seed": self.seed, "epoch": trainer.current_epoch + 1}
        row["val_accuracy"] = 100 * trainer.callback_metrics["val/accuracy"].item()
        with evaluating(pl_module), torch.no_grad():
            batches = [
                pl_module.backbone(*part) for part in zip(self.images.split(128), self.targets.split(128), strict=True)
            ]
            right = torch.cat([batch.prediction for batch in batches]) == self.targets
            row["train_accuracy"] = 100 * right.double().mean().item()
            for alpha in ALPHAS:
                for samples in SAMPLES:
                    metric = NACME(pl_module.backbone.probe.num_features, samples=samples, alpha=alpha)
                    for batch in batches:
                        metric.update(batch)
                    row[f"nac_me alpha={alpha:g} O={samples}"] = metric.compute().item()
            for name, images in self.sets.items():
                right = torch.cat([pl_module(part).argmax(1) for part in images.split(128)]) == self.labels
                row[f"accuracy {name}"] = 100 * right.double().mean().item()
        self.rows.append(row)


def train(seed: int, epochs: int, folder: Path) -> list[dict[str, float]]:
    """One training with the settings of configs/digits.yaml; a fifth of the training images validates."""
    L.seed_everything(seed, verbose=False)
    module = OODModule(
        name="timm:resnet18",
        weights="none",
        options={"num_classes": 8, "layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128], "output_stride": 8},
        preprocess={"size": (32, 32), "resize": None, "mean": (0.5,) * 3, "std": (0.5,) * 3},
        finetune="all",
        training=Training(
            lambda parameters: torch.optim.AdamW(parameters, lr=0.005, weight_decay=0.01), label_smoothing=0.05
        ),
    )
    digits = Digits("train")
    order = hash_index(torch.arange(len(digits)), seed).argsort().tolist()
    held_out = round(VALIDATION * len(digits))
    sets = IDSets(Subset(digits, sorted(order[held_out:])), Digits("test"), Subset(digits, sorted(order[:held_out])))
    judge = Judge(seed)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[judge],
    )
    trainer.fit(module, datamodule=OODDataModule(sets, batch_size=64, seed=seed))
    return judge.rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where the results go")
    options = parser.parse_args()
    torch.set_num_threads(1)  # on so small a network threads only wait for one another
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rows = []
    for seed in range(options.seeds):
        rows += train(seed, options.epochs, options.folder)
        print(f"seed {seed}: {rows[-1]['accuracy clean']:.1f} % on clean test images", flush=True)
    checkpoints = pd.DataFrame(rows).round(9)
    checkpoints.to_csv(options.folder / "checkpoints.csv", index=False)
    print(write(checkpoints, options.folder))


if __name__ == "__main__":
    main()
