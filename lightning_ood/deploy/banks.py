"""Makes the banks of fitted detectors smaller, and measures what that costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lightning_ood.backbone import Backbone
from lightning_ood.data.sets import Batch
from lightning_ood.errors import InputError
from lightning_ood.metrics.rates import auroc
from lightning_ood.suite import DetectorSuite, Fits


def shrink(suite: DetectorSuite, rows: int) -> DetectorSuite:
    """Returns a suite with the same detectors, whose banks hold a uniform sample of ``rows`` of their images.

    Tensors that detectors share stay shared.

    Raises:
        InputError: if ``rows`` is below 1.
    """
    if rows < 1:
        raise InputError(f"--bank {rows}: write at least 1 row")
    made: dict[tuple[object, ...], Tensor] = {}

    def smaller(value: Tensor) -> Tensor:
        memory = (value.data_ptr(), value.shape, value.stride())
        if memory not in made:
            order = torch.randperm(len(value), generator=torch.Generator().manual_seed(0))
            made[memory] = value[order[:rows].sort().values.to(value.device)]
        return made[memory]

    fitted: Fits = {}
    for name, values in suite.fitted.items():
        banks = {key for one in suite.detectors[name].descendants() for key in one.banks}
        fitted[name] = {key: smaller(v) if key.rpartition(".")[2] in banks else v for key, v in values.items()}
    other = DetectorSuite(suite.detectors)
    other.fitted, other.doubts = fitted, suite.doubts
    return other


def changed(before: DetectorSuite, after: DetectorSuite) -> list[str]:
    """Returns the detectors whose fit ``shrink`` has made smaller."""
    return [
        name
        for name, values in before.fitted.items()
        if any(len(value) != len(after.fitted[name][key]) for key, value in values.items() if value.dim())
    ]


@torch.inference_mode()
def costs(
    backbone: Backbone, suites: tuple[DetectorSuite, DetectorSuite], sets: Mapping[str, Iterable[Batch]]
) -> dict[tuple[str, str], tuple[float, float]]:
    """Measures AUROC of two suites with the same detectors, from one forward pass of each test image.

    Args:
        backbone: configured for the test pass of the detectors.
        suites: before and after.
        sets: the ID test set first, then the OOD sets.

    Returns:
        (detector, OOD set) -> AUROC before and after, fractions.
    """
    device = next(backbone.network.parameters()).device
    scores: dict[str, list[Tensor]] = {}
    for name, batches in sets.items():
        both = []
        for batch in batches:
            if len(batch.index):
                features = backbone(batch.image.to(device), index=batch.index)
                both.append(torch.stack([suite.score(features).cpu() for suite in suites]))  # [2, B, detectors]
        scores[name] = list(torch.cat(both, dim=1))
    first, *others = scores
    found = {}
    for i, detector in enumerate(suites[0].detectors):
        for name in others:
            pair = [auroc(scores[first][k][:, i], scores[name][k][:, i]) for k in (0, 1)]
            found[detector, name] = (pair[0], pair[1])
    return found
