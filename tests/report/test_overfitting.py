import pytest
import torch

from lightning_ood.report import training_auroc


def test_auroc_of_training_images() -> None:
    fitted = {
        "counts.pooled": torch.zeros(3, 4),
        "training_scores.inside": torch.tensor([0.9, 0.8, 0.3]),
        "training_scores.outside": torch.tensor(0.5),  # one image: torchmetrics squeezes it
    }
    lines = training_auroc(fitted, [0.2, 0.5, 0.7, 0.85])
    inside, outside = (
        f"AUROC % of training images ({which} the fitted subset) against ID test images"
        for which in ("inside", "outside")
    )
    assert lines == pytest.approx({inside: 100 * (4 + 3 + 1) / 12, outside: 100 * 1.5 / 4})


def test_nothing_is_said_of_a_detector_that_kept_none() -> None:
    assert training_auroc({"mean": torch.zeros(3)}, [0.1, 0.2]) == {}
