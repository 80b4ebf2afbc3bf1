"""Test helpers for detectors: ``check_detector`` and the toy network that it runs on."""

from lightning_ood.testing.contract import check_detector

__all__ = ["check_detector"]
