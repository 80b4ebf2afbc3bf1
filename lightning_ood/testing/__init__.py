"""The contract of a detector as a test: ``check_detector`` and the small network that it runs on."""

from lightning_ood.testing.contract import check_detector

__all__ = ["check_detector"]
