"""Statistics of a stream of batches, of bounded size and exactly mergeable: quantiles, samples, moments, coverage."""

from lightning_ood.statistics.base import Statistic
from lightning_ood.statistics.shared import Shared, share

__all__ = ["Shared", "Statistic", "share"]
