"""The metrics of :mod:`lightning_ood.metrics.rates` from scores that arrive in batches and on several processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_ood.errors import InputError
from lightning_ood.metrics.rates import ood_metrics


class OODMetrics(Metric):
    """Computes the metrics of ``ood_metrics`` from scores that arrive in batches and on several processes.

    Keeps the raw scores; ``compute`` returns fractions (float64).

    >>> metric = OODMetrics()
    >>> metric.update(id_scores=torch.tensor([3.0, 1.0]))
    >>> metric.update(ood_scores=torch.tensor([2.0, 1.0]))
    >>> metric.compute()["auroc"]
    tensor(0.6250, dtype=torch.float64)
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False
    id: list[Tensor] | Tensor
    ood: list[Tensor] | Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_dtype(torch.float64)  # dtype of the empty list that a process without images sends
        self.add_state("id", [], "cat")
        self.add_state("ood", [], "cat")

    def update(self, id_scores: Tensor | None = None, ood_scores: Tensor | None = None) -> None:
        """Adds scores of ID images, OOD images, or both, of any floating type and shape.

        Raises:
            InputError: if a score is not finite.
        """
        for name, scores in (("id", id_scores), ("ood", ood_scores)):
            if scores is None:
                continue
            scores = scores.detach().flatten().double()  # exact for every floating type
            if not scores.isfinite().all():
                first = int((~scores.isfinite()).nonzero()[0])
                raise InputError(
                    f"the {name.upper()} score at position {first} of this batch is {scores[first].item()}; "
                    "scores must be finite"
                )
            getattr(self, name).append(scores)

    def compute(self) -> dict[str, Tensor]:
        """Computes all of :data:`~lightning_ood.metrics.rates.METRICS` over all scores.

        Raises:
            InputError: if there are no ID or no OOD scores.
        """
        id_and_ood = [dim_zero_cat(state) if len(state) else torch.empty(0) for state in (self.id, self.ood)]
        values = ood_metrics(*id_and_ood)
        return {name: torch.tensor(value, dtype=torch.float64, device=self.device) for name, value in values.items()}
