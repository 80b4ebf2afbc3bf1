"""Every number that a detector takes has a range, and a value outside is refused when the detector is made."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest

from lightning_ood.detectors import list_detectors
from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.nac import NACLayer
from lightning_ood.detectors.nap import NAP
from lightning_ood.errors import InputError

NAN = math.nan
PERCENTILE = (-1, 101, NAN)
COUNT = (0, -1)
POSITIVE = (0, -1, NAN, math.inf)
BAD: dict[str, tuple[float, ...]] = {
    "percentile": PERCENTILE,
    "low_percentile": PERCENTILE,
    "high_percentile": PERCENTILE,
    "weight_percentile": PERCENTILE,
    "activation_percentile": PERCENTILE,
    "clip_percentile": PERCENTILE,
    "temperature": POSITIVE,
    "gamma": POSITIVE,
    "power": (-1, NAN, math.inf),
    "epsilon": (-1, NAN, math.inf),
    "eps": (-1, NAN, math.inf),
    "alpha": (-1, NAN, math.inf),
    "weight": (-0.1, 1.1, NAN),
    "held_out": (-0.1, 1.0, NAN),
    "shrinkage": (0, -0.1, 1.1, NAN),
    "threshold": (NAN,),
    "low": (NAN,),
    "high": (NAN,),
    "shift": (NAN,),
    "dim": (-1,),
    "k": COUNT,
    "top": COUNT,
    "rows": COUNT,
    "images": COUNT,
    "bank_size": COUNT,
    "grid": (1, 0, -1),
    "order": COUNT,
    "bins": COUNT,
    "variance": (-0.1, 1.1, NAN),
    "size": COUNT,
    "tail": (1, 0, -1),
    "iterations": COUNT,
    "k1": (0, -1, 101, NAN),
    "k2": (0, -1, 101, NAN),
    "share": (-0.1, 1.1, NAN),
    "step": POSITIVE,
    "components": COUNT,
    "orders": COUNT,
    "entries": COUNT,
    "repeats": COUNT,
    "groups": COUNT,
    "keep": (-0.1, 1.1, NAN),
    "delta": (-1, NAN, math.inf),
    "smoothing": COUNT,
    "logit_smoothing": COUNT,
    "msp_weight": (NAN,),
    "logit_eps": POSITIVE,
}
FACTORS = {("AdaSCALE", "weight"), ("WeiPer", "weight")}  # factors of a term, no shares: every number is one
ANY = ("seed",)  # every integer is one


def numeric(kind: type[Detector]) -> list[str]:
    """Names of the arguments that take a number."""
    hints = inspect.signature(kind.__init__).parameters.values()
    plain = [(p.name, str(p.annotation).replace("'", "")) for p in hints]
    return [name for name, hint in plain if ("int" in hint or "float" in hint) and "dict" not in hint]


CASES = [(kind, name) for kind in list_detectors().values() for name in numeric(kind) if name not in ANY]


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind.__name__}-{name}" for kind, name in CASES])
def test_out_of_range_is_refused(kind: type[Detector], name: str) -> None:
    assert name in BAD, f"{kind.__name__} takes a number {name!r}: give it a range (ranges.py), and bad values here"
    given: dict[str, Any] = {"base": Energy()} if kind is NAP else {}
    for value in (NAN,) if (kind.__name__, name) in FACTORS else BAD[name]:
        with pytest.raises(InputError, match=f"{name}={value}"):
            kind(**given, **{name: value})


def test_the_walk_finds_them() -> None:
    assert len(CASES) > 40
    assert {"KNN", "ReAct", "MDS", "NAP", "VRA", "Search", "Fusion"} <= {kind.__name__ for kind, _ in CASES}


@pytest.mark.parametrize("field", ["samples", "alpha"])
def test_layers_of_nac(field: str) -> None:
    for value in (0, -1, NAN):
        with pytest.raises(InputError, match=f"{field}={value}"):
            NACLayer(**{field: value})
