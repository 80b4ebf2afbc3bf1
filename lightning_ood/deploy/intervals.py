"""The 95 % interval of a share."""

from __future__ import annotations

import math

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson(count: int, total: int) -> tuple[float, float]:
    """Returns Wilson's 95 % interval of a share ``count / total``; (0, 1) where ``total`` is 0."""
    if total == 0:
        return 0.0, 1.0
    share, z2 = count / total, Z * Z / total
    middle = (share + z2 / 2) / (1 + z2)
    half = Z * math.sqrt(share * (1 - share) / total + z2 / (4 * total)) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)
