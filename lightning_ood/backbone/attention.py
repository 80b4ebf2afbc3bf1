"""Reads the class token's attention row in a Transformer's last block; all other blocks keep the fused kernel."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def class_attention(network: nn.Module) -> nn.Module | None:
    """Finds the last attention module of a network with a class token; None if there is none.

    Recognises timm's attention modules (by the dropout ``attn_drop`` of the weights) and ``nn.MultiheadAttention``
    (torchvision).
    """
    token = getattr(network, "cls_token", None)
    if token is None:
        token = getattr(network, "class_token", None)
    if not isinstance(token, Tensor):
        return None
    modules = [
        module
        for module in network.modules()
        if isinstance(module, nn.MultiheadAttention) or isinstance(getattr(module, "attn_drop", None), nn.Module)
    ]
    return modules[-1] if modules else None


def record_attention(attention: nn.Module, store: Callable[[Tensor], None]) -> list[RemovableHandle]:
    """Passes the class token's attention row ``[B, heads, N]``, after softmax, to ``store`` in every forward.

    Switches off the fused kernel of this module alone, as only its weights are read. Returns the handles of the hooks.
    """
    # The weights of both kinds of module are [B, heads, N, N]; row 0 is that of the class token.
    if isinstance(attention, nn.MultiheadAttention):
        return [
            attention.register_forward_pre_hook(_ask_for_weights, with_kwargs=True),
            attention.register_forward_hook(lambda module, args, output: store(output[1][:, :, 0])),
        ]
    if hasattr(attention, "fused_attn"):
        attention.fused_attn = False  # type: ignore[assignment]
    dropout = attention.attn_drop
    assert isinstance(dropout, nn.Module)
    return [dropout.register_forward_hook(lambda module, args, output: store(output[:, :, 0]))]


def attention_shape(network: nn.Module, images: Tensor) -> tuple[int, int] | None:
    """Returns ``(heads, tokens)`` of the class token's attention row; None if there is none.

    Args:
        network: in eval mode; runs one forward.
        images: ``[B, 3, H, W]``.
    """
    layer = class_attention(network)
    if layer is None:
        return None
    rows: list[Tensor] = []
    fused = getattr(layer, "fused_attn", None)
    handles = record_attention(layer, rows.append)
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    if fused is not None:
        layer.fused_attn = fused
    # A module with such an `attn_drop` may have no attention weights (CoaT); weights of one token add up to 1.
    if not rows or rows[0].ndim != 3 or not torch.allclose(rows[0].sum(2), rows[0].new_ones(()), atol=1e-2):
        return None
    return rows[0].shape[1], rows[0].shape[2]


def _ask_for_weights(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {**kwargs, "need_weights": True, "average_attn_weights": False}
