"""The checkpoint that NAC-ME chooses is the one that detectors are fitted on, from the command line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from lightning_ood.detectors.nac_me import NACME
from lightning_ood.features import Features, Head
from lightning_ood.networks.preprocess import Preprocess
from tests.helpers.runs import Run
from tests.helpers.tiny import Images, Net


def monitoring(config: Path, folder: Path) -> None:
    """Trains the tiny network for six epochs and keeps the best by ``val/nac_me``."""
    content = yaml.safe_load(config.read_text())
    content["model"] |= {
        "finetune": "all",
        # a high rate, so that the best epoch varies
        "training": {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}}},
    }
    content["trainer"] |= {
        "max_epochs": 6,
        "enable_checkpointing": True,
        "default_root_dir": str(folder),
        "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(folder)}},
        "callbacks": [
            {"class_path": "lightning_ood.engine.selection.NACMECallback", "init_args": {"samples": 5, "alpha": 20.0}},
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {
                    "monitor": "val/nac_me",
                    "mode": "max",
                    "filename": "{epoch}",
                    "dirpath": str(folder / "best"),
                },
            },
        ],
    }
    config.write_text(yaml.safe_dump(content, sort_keys=False))


def coverage_of(weights: dict[str, torch.Tensor]) -> float:
    """NAC-ME of the training images, in one process."""
    network = Net()
    network.load_state_dict({key.removeprefix("backbone.network."): value for key, value in weights.items()})
    network.eval()
    images = Images(61)
    transform = Preprocess((12, 12), None, "bilinear", mean=(0.5,) * 3, std=(0.5,) * 3).transform()
    pixels = torch.stack([transform(images[i][0]) for i in range(61)])
    pooled: list[torch.Tensor] = []
    network.fc.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0]))
    with torch.no_grad():
        logits = network(pixels)
    metric = NACME(16, samples=5, alpha=20.0)
    head = Head(network.fc.weight.detach(), network.fc.bias.detach())
    metric.update(Features(logits, pooled[0], head, labels=torch.tensor(images.targets)))
    return metric.compute().item()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_the_best_epoch_is_fitted_on(config: Path, train: Run, tmp_path: Path, processes: int) -> None:
    folder = tmp_path / "run"
    monitoring(config, folder)
    strategy = ("--trainer.devices", processes, *(("--trainer.strategy", "ddp") if processes > 1 else ()))
    done = train("fit", "--config", config, *strategy)
    assert done.returncode == 0, done.stderr

    log = pd.read_csv(next(folder.rglob("metrics.csv")))
    values = log.dropna(subset=["val/nac_me"]).set_index("epoch")["val/nac_me"]
    assert len(values) == 6 and values.nunique() > 1
    (best,) = (folder / "best").iterdir()
    assert best.stem == f"epoch={int(values.idxmax())}"

    weights = torch.load(best, weights_only=True)["state_dict"]
    assert coverage_of(weights) == pytest.approx(values.max(), rel=0.02)  # a state at an edge, by another batch size
    for name in ("trained.ckpt", "last.ckpt"):
        kept = torch.load(folder / "checkpoints" / name, weights_only=True)["state_dict"]
        assert all(torch.equal(value, weights[key]) for key, value in kept.items()) and set(kept) == set(weights)
    assert f"({best})" in done.stdout


def test_another_choice_of_the_epoch_is_another_training(config: Path, train: Run, tmp_path: Path) -> None:
    """Weights chosen by one criterion are not taken for those of another."""
    monitoring(config, tmp_path / "run")
    assert train("fit", "--config", config).returncode == 0
    content = yaml.safe_load(config.read_text())
    content["trainer"]["callbacks"][1]["init_args"]["mode"] = "min"
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    again = train("fit", "--config", config)
    assert again.returncode == 2 and "--overwrite" in again.stderr
