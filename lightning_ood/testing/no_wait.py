"""A context manager that raises on any operation that would make the host wait for the device."""

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

    Reading a ``meta`` tensor back and indexing it by a mask always raise. This context manager also raises on a
    blocking copy to the device. Scalars may be passed as arguments.

    Raises:
        RuntimeError: or NotImplementedError, at the operation.
    """
    with _NothingSent(), _NoNumbers():
        yield


class _NothingSent(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        on_device = any(value.is_meta for value in (*inputs, *tree_leaves(out)) if isinstance(value, Tensor))
        copied = [value for value in inputs if value.device.type == "cpu" and value.dim() > 0]
        if copied and on_device and not kwargs.get("non_blocking"):
            raise RuntimeError(
                f"{func} copies a tensor {list(copied[0].shape)} to the device and waits; use "
                "lightning_ood.ops.transfer.beside"
            )
        return out


class _NoNumbers(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor) and out.is_meta:
            raise RuntimeError(
                f"{func.__name__} copies numbers to the device and waits; build the tensor on the host, or use new_full"
            )
        return out
