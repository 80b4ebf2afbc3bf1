"""The penultimate feature divided by a power of its length, shared by the detectors that ask for the same power."""

import math

import torch
from torch import Tensor

from lightning_ood.errors import InputError
from lightning_ood.features import Features


def check_power(power: float) -> None:
    """Checks the exponent of a normalisation.

    Raises:
        InputError: if it is negative or not finite.
    """
    if not 0 <= power < math.inf:
        raise InputError(f"power={power} is not a number from 0; write 0 for the raw feature or 1 for its direction")


def normalized(features: Features, power: float) -> Tensor:
    """Returns ``z / |z|_2^power`` ``[B, D]``, computed once per batch; a zero feature stays zero.

    With ``power`` 0 that is the penultimate feature itself, with 1 ``Features.direction``: the same object for all
    detectors, which therefore share a statistic of it.
    """
    z = features.pooled
    if power == 0:
        return z
    if power == 1:
        return features.direction
    return features.cached(("normalized", power), z, lambda: _divide(z, power))


def normalized_rows(rows: Tensor, power: float) -> Tensor:
    """Normalises stored features ``[n, D]`` as :func:`normalized` does those of a batch."""
    return rows if power == 0 else _divide(rows, power)


def normalized_products(features: Features, power: float) -> Tensor:
    """Sums ``y y^T`` of the normalised feature y over the images: ``[D, D]`` float64, computed once per batch."""
    if power == 0:
        return features.products
    rows = normalized(features, power)

    def products() -> Tensor:
        wide = rows.double()
        return wide.T @ wide

    return features.cached("products", rows, products)


def _divide(rows: Tensor, power: float) -> Tensor:
    length = rows.norm(dim=1, keepdim=True)  # [n, 1]
    return rows * torch.where(length > 0, length, 1) ** -power
