"""A frozen network that turns a batch of images into ``Features`` in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_ood.backbone.attention import attention_shape, class_attention, record_attention
from lightning_ood.backbone.cache import FeatureCache, from_parts, part_names, to_parts
from lightning_ood.backbone.classifier import feature_of, linear_head
from lightning_ood.backbone.inspect import evaluating, overwritten_outputs
from lightning_ood.backbone.probe import Probe, Tap, probe
from lightning_ood.errors import InputError, write_one_of
from lightning_ood.features import Features, Head, NetworkInfo, Reads
from lightning_ood.networks.weights import weights_hash
from lightning_ood.views.perturbation import Perturbation


class Backbone(nn.Module):
    """Reads logits, penultimate feature, maps, gradients and class-token attention from one forward of a network.

    Works on any classifier: what is where is found by a small probing pass, and everything is read by hooks. ``close``,
    or the end of a ``with`` block, takes them off the network again.

    Args:
        network: an image classifier, ``[B, 3, H, W] -> [B, K]``.
        input_size: ``(H, W)`` of the images.
        head: name of the classifier's module, where it cannot be found.
        mean: what the preprocessing subtracts per channel, for detectors that look at pixels.
        std: what it divides by.
        channels_last: keep images and weights with the channel innermost, which tensor cores want of convolutions.
        compile: backend of ``torch.compile`` (``inductor``) for the passes that take no gradient; eager where None.
    """

    def __init__(
        self,
        network: nn.Module,
        input_size: tuple[int, int] = (224, 224),
        head: str | None = None,
        mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        std: tuple[float, ...] = (1.0, 1.0, 1.0),
        channels_last: bool = False,
        compile: str | None = None,
    ) -> None:
        super().__init__()
        self.layout = torch.channels_last if channels_last else torch.preserve_format
        self.compiler = compile
        self.network = network.to(memory_format=self.layout)
        self.input_size = input_size
        self.mean, self.std = mean, std
        self._head_name = head
        self._reads = Reads()
        self._taps: dict[str, Tap] = {}
        self._handles: list[RemovableHandle] = []
        self._fused: tuple[nn.Module, bool] | None = None  # the attention module taken out of the fused kernel
        self._next = 0  # position of the next image where no index is given
        self._call: Callable[[Tensor], Tensor] = self.network.__call__
        self.cache: FeatureCache | None = None
        self._weights = ""  # hash of the network's weights, where there is a cache
        self._seen: dict[str, Tensor] | None = None  # what the hooks of the forward pass in progress have read

    @cached_property
    def probe(self) -> Probe:
        """The network's structure."""
        device = self._blank(0).device.type
        with torch.inference_mode(False), torch.autocast(device, enabled=False), evaluating(self.network):
            return probe(self.network, self.example(2), self._head_name)

    def example(self, count: int) -> Tensor:
        """``[count, 3, H, W]``: noise of the images' size, the same each time, where the network is."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, 3, *self.input_size, generator=generator).to(self._blank(1).device)

    @property
    def classifier(self) -> nn.ModuleList:
        """The module behind the penultimate feature, or the two whose logits are averaged."""
        return nn.ModuleList(self.network.get_submodule(name) for name in self.probe.classifiers)

    @property
    def head(self) -> Head | None:
        """The classifier's weights as they are now; None where it is not linear."""
        return linear_head(list(self.classifier)) if self.probe.linear else None

    def info(self, labels: Tensor | None = None) -> NetworkInfo:
        """What detectors may know before the first batch; ``labels`` are those of the fit set."""
        return NetworkInfo(
            num_features=self.probe.num_features,
            num_classes=self.probe.num_classes,
            head=self.head,
            maps={name: tap.shape for name, tap in self.probe.taps.items()},
            blocks=self.probe.blocks,
            attention=self._attention_shape,
            labels=labels,
            mean=self.mean,
            std=self.std,
        )

    def configure(self, reads: Reads | None = None) -> None:
        """Plans what the next forward passes read besides logits and penultimate feature; nothing more where None.

        Raises:
            InputError: if a tap does not exist or the network has no class token.
        """
        self.close()
        self._reads = reads = Reads() if reads is None else reads
        self._weights = weights_hash(self.network) if self.cache is not None else ""
        self._taps = {name: self._tap(name) for name in dict.fromkeys((*reads.taps, *reads.gradients))}
        self._handles = [
            layer.register_forward_pre_hook(self._feature_reader(f"feature {i}"))
            for i, layer in enumerate(self.classifier)
        ]
        by_module: dict[str, list[str]] = {}
        for name, tap in self._taps.items():
            by_module.setdefault(tap.module, []).append(name)
        overwritten = overwritten_outputs(self.network, list(by_module), self._blank(2))
        for module, names in by_module.items():
            hook = self._reader(names, copy=module in overwritten)
            self._handles.append(self.network.get_submodule(module).register_forward_hook(hook))
        if reads.attention:
            layer = class_attention(self.network)
            if layer is None:
                raise InputError(f"a {type(self.network).__name__} has no class token, so no class-token attention")
            if hasattr(layer, "fused_attn"):
                self._fused = (layer, layer.fused_attn)  # type: ignore[assignment]
            self._handles += record_attention(layer, lambda row: self._store("attention", row))
        if self.compiler is not None:
            torch.compiler.reset()  # a compiled network does not notice that its hooks have changed
            self._call = torch.compile(self.network, backend=self.compiler)

    def close(self) -> None:
        """Takes every hook off the network, which is then as it was; ``configure`` puts them on again."""
        for handle in self._handles:
            handle.remove()
        if self._fused is not None:
            layer, fused = self._fused
            layer.fused_attn = fused  # type: ignore[assignment]
        self._handles, self._fused, self._next = [], None, 0

    def __enter__(self) -> Backbone:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def forward(
        self, images: Tensor, labels: Tensor | None = None, index: Tensor | None = None, views: bool = True
    ) -> Features:
        """One forward pass; one more per view, one and a backward pass more per perturbation.

        Args:
            images: ``[B, 3, H, W]``, preprocessed.
            labels: ``[B]``.
            index: ``[B]`` positions in the data set, best on the host. Where None the images are counted from the last
                ``configure`` on, so the same set in the same order has the same positions whatever the batch size.
            views: whether the planned views are read too.
        """
        if not self._handles:
            self.configure(self._reads)
        if index is None:
            index = torch.arange(self._next, self._next + len(images))
            self._next += len(images)
        index = index.cpu()
        planned = self._reads.views if views else ()
        others: dict[Hashable, Features] = {view: self._read(view(images, index), labels, index)[0] for view in planned}
        features, stepped = self._read(images, labels, index, self._reads.perturbations)
        others |= {step: self._read(new, labels, index)[0] for step, new in stepped.items()}
        return replace(features, views=others)

    def _read(
        self, images: Tensor, labels: Tensor | None, index: Tensor, perturbations: Sequence[Perturbation] = ()
    ) -> tuple[Features, dict[Perturbation, Tensor]]:
        """The features of images, and the images that the perturbations make of them."""
        if self.cache is None or perturbations:  # a step's gradient needs the network
            return self._run(images, labels, index, perturbations)
        key = self.cache.key(images, self._weights)
        held = self.cache.read(key, part_names(self._taps, self._reads.gradients, self._reads.attention), images.device)
        if held is not None:
            return from_parts(held, self.head, labels, index), {}
        features, _ = self._run(images, labels, index)
        self.cache.write(key, to_parts(features))
        return features, {}

    def _run(
        self, images: Tensor, labels: Tensor | None, index: Tensor, perturbations: Sequence[Perturbation] = ()
    ) -> tuple[Features, dict[Perturbation, Tensor]]:
        """The same from a forward of the network."""
        differentiate = bool(self._reads.gradients or perturbations)
        seen: dict[str, Tensor] = {}
        self._seen = seen
        with torch.inference_mode(False) if differentiate else nullcontext(), torch.set_grad_enabled(differentiate):
            if differentiate:  # what inference mode made can be part of no graph
                images = images.detach().clone().requires_grad_(bool(perturbations))
            images = images.to(memory_format=self.layout)
            logits = (self.network if differentiate else self._call)(images).float()
            self._seen = None
            gradients = self._differentiate(logits, seen, keep=bool(perturbations)) if self._reads.gradients else {}
            features = Features(
                logits=logits,
                pooled=torch.cat([seen[f"feature {i}"] for i in range(len(self.probe.classifiers))], dim=1).float(),
                head=self.head,
                maps={name: tap.map(seen[name]) for name, tap in self._taps.items()},
                gradients=gradients,
                attention=seen["attention"].float() if "attention" in seen else None,
                labels=labels,
                index=index,
            )
            stepped = {}
            for i, step in enumerate(perturbations):
                loss = step.total(features)
                gradient = torch.autograd.grad(loss, images, retain_graph=i + 1 < len(perturbations))[0]
                stepped[step] = step(images, gradient)
        return features.detach(), stepped

    def _differentiate(self, logits: Tensor, seen: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
        """One backward for all taps: d KL(uniform || softmax) / d map (a constant apart, the cross-entropy)."""
        loss = (logits.logsumexp(dim=1) - logits.mean(dim=1)).sum()
        found = torch.autograd.grad(loss, [seen[name] for name in self._reads.gradients], retain_graph=keep)
        return {
            name: self._taps[name].channel_first(gradient)
            for name, gradient in zip(self._reads.gradients, found, strict=True)
        }

    def _store(self, name: str, value: Tensor) -> None:
        if self._seen is not None:
            self._seen[name] = value

    def _feature_reader(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, args: self._store(name, feature_of(module, args[0]))

    def _reader(self, names: list[str], copy: bool) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        differentiate = not set(names).isdisjoint(self._reads.gradients)

        def read(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
            if self._seen is None:
                return None
            if differentiate and not output.requires_grad:
                output.requires_grad_()  # frozen weights: the graph starts at the earliest map
            for name in names:
                self._store(name, output)
            return output.clone() if copy else None  # the network overwrites the copy

        return read

    def _blank(self, count: int) -> Tensor:
        """Images of zeros where the network is."""
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        return torch.zeros(count, 3, *self.input_size, device=device)

    def _tap(self, name: str) -> Tap:
        taps = self.probe.taps
        if name not in taps:
            advice = write_one_of(name, taps, otherwise=self.probe.blocks)
            raise InputError(f"the network has no tap {name!r}; {advice} (--print_taps lists them all)")
        return taps[name]

    @cached_property
    def _attention_shape(self) -> tuple[int, int] | None:
        with evaluating(self.network):
            return attention_shape(self.network, self._blank(1))
