"""Post-hoc out-of-distribution detection: every method from one forward pass, exact on any number of processes.

The names below are imported when they are used: ``import lightning_ood`` itself imports nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_ood.ops.version import VERSION

if TYPE_CHECKING:
    from lightning_ood.backbone.backbone import Backbone
    from lightning_ood.deploy.load import load_detector
    from lightning_ood.deploy.monitor import Monitor
    from lightning_ood.detectors import list_detectors
    from lightning_ood.detectors.base import Detector
    from lightning_ood.detectors.logit_score import LogitScore
    from lightning_ood.engine.callback import OODCallback
    from lightning_ood.errors import InputError
    from lightning_ood.evaluation.result import Evaluation
    from lightning_ood.evaluation.run import evaluate
    from lightning_ood.features import Features, Head, NetworkInfo
    from lightning_ood.metrics.rates import ood_metrics
    from lightning_ood.suite import DetectorSuite
    from lightning_ood.testing.contract import check_detector

__version__ = VERSION

__all__ = [
    "Backbone",
    "Detector",
    "DetectorSuite",
    "Evaluation",
    "Features",
    "Head",
    "InputError",
    "LogitScore",
    "Monitor",
    "NetworkInfo",
    "OODCallback",
    "check_detector",
    "evaluate",
    "list_detectors",
    "load_detector",
    "ood_metrics",
]

_MODULES = {
    "Backbone": "backbone.backbone",
    "Detector": "detectors.base",
    "DetectorSuite": "suite",
    "Evaluation": "evaluation.result",
    "Features": "features",
    "Head": "features",
    "InputError": "errors",
    "LogitScore": "detectors.logit_score",
    "Monitor": "deploy.monitor",
    "NetworkInfo": "features",
    "OODCallback": "engine.callback",
    "check_detector": "testing.contract",
    "evaluate": "evaluation.run",
    "list_detectors": "detectors",
    "load_detector": "deploy.load",
    "ood_metrics": "metrics.rates",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
