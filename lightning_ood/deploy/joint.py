"""One decision from several detectors, with a false-alarm rate that is that of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lightning_ood.deploy import conformal
from lightning_ood.deploy.calibration import FEWEST, Calibration
from lightning_ood.detectors.combine.fusion import Fisher, Rule
from lightning_ood.errors import InputError


class JointDecision:
    """Joint p-values of several detectors.

    Every other calibration image makes each detector's score a p-value, which a rule of Fusion combines; the images in
    between rank the combined value. It is a fixed function of an image by then, so its rank gives a split-conformal
    p-value with the guarantee of a single detector, however much the detectors depend on each other.

    Args:
        calibration: scores of the calibration images.
        names: the detectors.
        rule: how their p-values are combined.

    Raises:
        InputError: if fewer than two detectors are named, or half of the calibration images are fewer than 19.
    """

    def __init__(self, calibration: Calibration, names: Sequence[str], rule: Rule | None = None) -> None:
        if len(set(names)) < 2:
            raise InputError("joint decides from two or more detectors: name them")
        self.names = [calibration.check_name(name) for name in dict.fromkeys(names)]
        self.rule = Fisher() if rule is None else rule
        table = np.stack([calibration.scores[name] for name in self.names], axis=1)  # [n, M]
        self._first = torch.from_numpy(np.ascontiguousarray(table[0::2]))
        if len(table) // 2 < FEWEST:
            raise InputError(
                f"{len(table)} calibration images: joint ranks half of them, at least {FEWEST}; export with more"
            )
        self.ordered = np.sort(self.combined(dict(zip(self.names, table[1::2].T, strict=True))))  # [n // 2]

    def __len__(self) -> int:
        """Number of calibration images that rank a combined value."""
        return len(self.ordered)

    def combined(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """Combines the detectors' scores ``[B]`` each to one value ``[B]``, higher = more in-distribution."""
        table = torch.from_numpy(np.stack([scores[name] for name in self.names], axis=1).astype(np.float32))  # [B, M]
        return self.rule(table, self._first).double().numpy()

    def p_values(self, values: np.ndarray) -> np.ndarray:
        """Computes the joint p-values ``[B]`` of combined values ``[B]``."""
        return conformal.p_values(values, self.ordered)
