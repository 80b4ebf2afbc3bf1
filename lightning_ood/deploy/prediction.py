"""What is decided about an image, and by which rule."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lightning_ood.deploy.conformal import benjamini_hochberg


@dataclass
class Prediction:
    """What is decided about one image.

    Attributes:
        image: its path, or its position among the images given.
        label: name of the predicted class.
        class_index: number of the predicted class.
        probability: softmax probability of the predicted class.
        score: score of the detector that decides; higher = more in-distribution.
        p_value: probability of a score this low or lower for an ID image (split-conformal).
        is_ood: the decision.
        scores: detector -> score, for every detector of the folder.
        p_values: detector -> p-value.
        error: why the image could not be read; everything else is empty then, and ``is_ood`` None.
    """

    image: str
    label: str = ""
    class_index: int = -1
    probability: float = float("nan")
    score: float = float("nan")
    p_value: float = float("nan")
    is_ood: bool | None = None
    scores: dict[str, float] = field(default_factory=dict)
    p_values: dict[str, float] = field(default_factory=dict)
    error: str = ""

    def row(self) -> dict[str, Any]:
        """Returns the fields as a flat row: ``score/<detector>`` and ``p_value/<detector>`` for several detectors."""
        flat = asdict(self)
        scores, p_values, error = flat.pop("scores"), flat.pop("p_values"), flat.pop("error")
        if len(scores) > 1:
            for name in scores:
                flat |= {f"score/{name}": scores[name], f"p_value/{name}": p_values[name]}
        return {**flat, "error": error}


@dataclass(frozen=True)
class Rule:
    """How an image is decided, given scores and p-values.

    Attributes:
        detector: the detector that decides.
        accept: share of ID images that is accepted; an image is OOD where its p-value is at most ``1 - accept``.
        threshold: a score below which an image is OOD, in place of ``accept``.
        by_class: p-values within the predicted class.
        joint: detectors that decide together, in place of one.
    """

    detector: str
    accept: float
    threshold: float | None = None
    by_class: bool = False
    joint: tuple[str, ...] = ()


def discover(found: list[Prediction], fdr: float) -> list[Prediction]:
    """Decides anew by Benjamini and Hochberg's rule over all images that could be read, in place."""
    read = [one for one in found if one.is_ood is not None]
    flags = benjamini_hochberg(np.array([one.p_value for one in read]), fdr)
    for one, flag in zip(read, flags, strict=True):
        one.is_ood = bool(flag)
    return found
