"""The class token's attention row of a Transformer's last block, with every other block left fused."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


def class_attention(network: nn.Module) -> nn.Module | None:
    """The last attention module of a network with a class token; None where there is none.

    Knows timm's attention modules (``fused_attn`` and ``attn_drop``) and ``nn.MultiheadAttention`` (torchvision).
    """
    token = getattr(network, "cls_token", None)
    if token is None:
        token = getattr(network, "class_token", None)
    if not isinstance(token, Tensor):
        return None
    found = [
        module
        for module in network.modules()
        if isinstance(module, nn.MultiheadAttention) or (hasattr(module, "fused_attn") and hasattr(module, "attn_drop"))
    ]
    return found[-1] if found else None


def record_attention(attention: nn.Module, store: Callable[[Tensor], None]) -> list[RemovableHandle]:
    """Hands the class token's softmaxed attention row ``[B, heads, N]`` to ``store`` in every forward.

    Only this module leaves the fused kernel: it is the only one whose weights are read.
    """
    if isinstance(attention, nn.MultiheadAttention):
        return [
            attention.register_forward_pre_hook(_ask_for_weights, with_kwargs=True),
            attention.register_forward_hook(lambda module, args, output: store(output[1][:, :, 0])),
        ]
    attention.fused_attn = False  # type: ignore[assignment]
    dropout = attention.attn_drop
    assert isinstance(dropout, nn.Module)
    return [dropout.register_forward_hook(lambda module, args, output: store(output[:, :, 0]))]


def _ask_for_weights(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {**kwargs, "need_weights": True, "average_attn_weights": False}
