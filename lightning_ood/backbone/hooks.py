"""The hooks with which a backbone reads a network in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_ood.backbone.attention import class_attention, record_attention
from lightning_ood.backbone.classifier import feature_of
from lightning_ood.backbone.inspect import first_tensor, overwritten_outputs, with_first
from lightning_ood.errors import InputError


class Hooks:
    """Adds hooks to a network that store tensors by name while a forward pass is recorded.

    Args:
        network: the network; ``remove`` restores it.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._handles: list[RemovableHandle] = []
        self._fused: tuple[nn.Module, bool] | None = None  # the attention module and its original `fused_attn`
        self._seen: dict[str, Tensor] | None = None  # tensors of the forward pass that is recorded

    @property
    def attached(self) -> bool:
        """Whether the network has hooks."""
        return bool(self._handles)

    def read_inputs(self, classifier: Sequence[nn.Module] | nn.ModuleList) -> None:
        """Stores the penultimate feature ``[B, D]`` that module i of a classifier reads as ``feature i``."""
        self._handles += [
            layer.register_forward_pre_hook(self._feature_reader(f"feature {i}")) for i, layer in enumerate(classifier)
        ]

    def read_outputs(self, modules: Mapping[str, str], gradients: Sequence[str], images: Tensor) -> None:
        """Stores the outputs of modules.

        Args:
            modules: name in the recording -> name of the module.
            gradients: names whose output has to require a gradient.
            images: ``[B, 3, H, W]``, for a forward pass that finds outputs which the network overwrites in place.
        """
        by_module: dict[str, list[str]] = {}
        for name, module in modules.items():
            by_module.setdefault(module, []).append(name)
        overwritten = overwritten_outputs(self._network, list(by_module), images)
        for module, names in by_module.items():
            hook = self._output_reader(names, not set(names).isdisjoint(gradients), copy=module in overwritten)
            self._handles.append(self._network.get_submodule(module).register_forward_hook(hook))

    def read_attention(self) -> None:
        """Stores the class token's attention row ``[B, heads, N]`` in the last block as ``attention``.

        Raises:
            InputError: if the network has no class token.
        """
        layer = class_attention(self._network)
        if layer is None:
            raise InputError(
                f"a {type(self._network).__name__} has no class token, so no class-token attention; leave out the "
                "detector that reads it"
            )
        if hasattr(layer, "fused_attn"):
            self._fused = (layer, layer.fused_attn)  # type: ignore[assignment]
        self._handles += record_attention(layer, lambda row: self._store("attention", row))

    @contextmanager
    def recording(self) -> Iterator[dict[str, Tensor]]:
        """Yields a dict that the hooks fill during the forward pass inside the block."""
        seen: dict[str, Tensor] = {}
        self._seen = seen
        try:
            yield seen
        finally:
            self._seen = None

    def remove(self) -> None:
        """Removes every hook and restores fused attention."""
        for handle in self._handles:
            handle.remove()
        if self._fused is not None:
            layer, fused = self._fused
            layer.fused_attn = fused  # type: ignore[assignment]
        self._handles, self._fused = [], None

    def _store(self, name: str, value: Tensor) -> None:
        if self._seen is not None:
            self._seen[name] = value

    def _feature_reader(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, args: self._store(name, feature_of(module, args[0]))

    def _output_reader(self, names: list[str], differentiate: bool, copy: bool) -> Callable[[nn.Module, Any, Any], Any]:
        def read(module: nn.Module, args: Any, returned: Any) -> Any:
            output = first_tensor(returned)
            if self._seen is None or output is None:
                return None
            if differentiate and not output.requires_grad:
                output.requires_grad_()  # with frozen weights the graph starts at the earliest map
            for name in names:
                self._store(name, output)
            return with_first(returned, output.clone()) if copy else None  # the network then overwrites the copy

        return read
