"""The internals of torchmetrics that the package relies on exist in the installed version."""

import pytest
import torch
import torchmetrics
from torch import Tensor

from lightning_ood.statistics._torchmetrics import INTERNALS, UncachedAccumulator


class Total(UncachedAccumulator):
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.prepared = 0
        self.add_state("total", torch.zeros(()), "sum")

    def update(self, value: float) -> None:
        self.total = self.total + value

    def before_sync(self) -> None:
        self.prepared += 1

    def compute(self) -> Tensor:
        return self.total[None]


@pytest.mark.parametrize("name", INTERNALS)
def test_the_internals_exist(name: str) -> None:
    assert hasattr(torchmetrics.MeanMetric(), name), (
        f"torchmetrics {torchmetrics.__version__} has no Metric.{name}: adapt lightning_ood/statistics/_torchmetrics.py"
    )


def test_torchmetrics_calls_the_wrapper_and_stores_no_result() -> None:
    metric = Total()
    assert metric.compute().tolist() == [0.0], f"torchmetrics {torchmetrics.__version__} does not call _wrap_compute"
    metric.update(2.0)
    assert metric.compute().tolist() == [2.0] and metric.prepared == 2
    assert metric._computed is None, f"torchmetrics {torchmetrics.__version__} stores the result of compute"
