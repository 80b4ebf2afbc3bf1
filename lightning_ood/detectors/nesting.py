"""Names of fitted tensors where a detector holds others: each part's under the part's name."""

from collections.abc import Mapping

from torch import Tensor


def nest(prefix: str, fitted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Puts a part's fitted tensors under ``prefix.``."""
    return {f"{prefix}.{key}": value for key, value in fitted.items()}


def unnest(prefix: str, fitted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of ``fitted`` that :func:`nest` put under ``prefix.``."""
    return {key[len(prefix) + 1 :]: value for key, value in fitted.items() if key.startswith(f"{prefix}.")}
