"""An instrument that raises on any operation that would make the host wait for the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextmanager
def never_waiting() -> Iterator[None]:
    """Raises on any operation that would synchronise host and device; ``meta`` tensors stand in for device tensors.

    A ``meta`` tensor by itself refuses to be read back and to be indexed by a mask. Here a blocking copy to the device
    is refused too. Scalars may be passed as arguments.

    Raises:
        RuntimeError: or NotImplementedError, at the operation.
    """
    with _NothingSent(), _NoNumbers():
        yield


class _NothingSent(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        there = any(value.is_meta for value in (*given, *tree_leaves(out)) if isinstance(value, Tensor))
        sent = [value for value in given if value.device.type == "cpu" and value.dim() > 0]
        if sent and there and not kwargs.get("non_blocking"):
            raise RuntimeError(
                f"{func} sends a tensor {list(sent[0].shape)} and waits; lightning_ood.ops.transfer.beside does not"
            )
        return out


class _NoNumbers(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor) and out.is_meta:
            raise RuntimeError(f"{func.__name__} sends numbers and waits; make the tensor on the host, or a new_full")
        return out
