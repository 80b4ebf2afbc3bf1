"""Arrays of any library and type to tensors of the type that is computed with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_ood.errors import InputError

_WHOLE = ("labels", "index")  # fields of int64; the others are float32


def convert_fields(values: Any, **dimensions: int) -> None:
    """Makes float32 and int64 tensors of fields of a frozen dataclass, where they are something else.

    Args:
        values: the dataclass; a field that is None stays None.
        **dimensions: name of a field -> number of its dimensions.

    Raises:
        InputError: if a field is no array of numbers, or has another number of dimensions; names it.
    """
    kind = type(values).__name__
    for name, count in dimensions.items():
        given = getattr(values, name)
        wanted = torch.int64 if name in _WHOLE else torch.float32
        if given is None or (isinstance(given, Tensor) and given.dtype == wanted and given.ndim == count):
            continue
        try:
            made = torch.as_tensor(given).to(wanted)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{kind}.{name}: give an array or a tensor of numbers ({error})") from error
        if made.ndim != count:
            raise InputError(f"{kind}.{name} has the shape {list(made.shape)}: give it {count} dimensions")
        object.__setattr__(values, name, made)
