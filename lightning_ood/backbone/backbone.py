"""A frozen network that turns a batch of images into ``Features`` in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from lightning_ood.backbone.attention import attention_shape
from lightning_ood.backbone.cache import FeatureCache, Shape, from_parts, to_parts
from lightning_ood.backbone.classifier import linear_head
from lightning_ood.backbone.hooks import Hooks
from lightning_ood.backbone.inspect import evaluating, logits_of
from lightning_ood.backbone.probe import Probe, probe
from lightning_ood.backbone.taps import Tap
from lightning_ood.errors import InputError, write_one_of
from lightning_ood.features import Features, Head, NetworkInfo, Reads
from lightning_ood.ops.checksums import weights_hash
from lightning_ood.views.perturbation import Perturbation


class Backbone(nn.Module):
    """Reads logits, penultimate feature, maps, gradients and class-token attention from one forward of a network.

    Works on any classifier. A small probing pass finds the classifier, maps and blocks; hooks then read them. ``close``
    or the end of a ``with`` block removes the hooks.

    Args:
        network: an image classifier, ``[B, 3, H, W] -> [B, K]``, or an output whose field ``logits`` is that.
        input_size: ``(H, W)`` of the images.
        head: name of the classifier's module, if it is not found automatically.
        mean: per-channel mean that the preprocessing subtracts, for detectors that read pixels.
        std: per-channel standard deviation that it divides by.
        channels_last: use the channels-last memory format, in which convolutions are faster on tensor cores and CPUs.
        compile: backend of ``torch.compile`` (``inductor``) for passes without gradients; eager where None.
        allow_random: accept a network whose answers differ each time, or with the other images of a batch.

    Attributes:
        from_images: whether batches are images, of which maps, views and gradients can be computed.
    """

    from_images = True

    def __init__(
        self,
        network: nn.Module,
        input_size: tuple[int, int] = (224, 224),
        head: str | None = None,
        mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        std: tuple[float, ...] = (1.0, 1.0, 1.0),
        channels_last: bool = False,
        compile: str | None = None,
        allow_random: bool = False,
    ) -> None:
        super().__init__()
        self.layout = torch.channels_last if channels_last else torch.preserve_format
        self.compiler = compile
        self.network = network.to(memory_format=self.layout)
        self.input_size = input_size
        self.mean, self.std = mean, std
        self._head_name, self._allow_random = head, allow_random
        self._reads = Reads()
        self._taps: dict[str, Tap] = {}
        self._hooks = Hooks(self.network)
        self._next = 0  # position of the next image, if no index is given
        self._call: Callable[[Tensor], Tensor] = self.network.__call__
        self.cache: FeatureCache | None = None
        self._weights = ""  # hash of the network's weights, if there is a cache
        self._attention: tuple[int, int] | None = None  # heads and tokens, if there is a cache and they are read

    @cached_property
    def probe(self) -> Probe:
        """Structure of the network, found by one probing pass."""
        device = self._blank(0).device.type
        with torch.inference_mode(False), torch.autocast(device, enabled=False), evaluating(self.network):
            return probe(self.network, self.example(2), self._head_name, self._allow_random)

    def example(self, count: int) -> Tensor:
        """Draws noise images ``[count, 3, H, W]`` on the network's device, the same at each call."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, 3, *self.input_size, generator=generator).to(self._blank(1).device)

    @property
    def classifier(self) -> nn.ModuleList:
        """The module that reads the penultimate feature, or the two modules whose logits are averaged."""
        return nn.ModuleList(self.network.get_submodule(name) for name in self.probe.classifiers)

    @property
    def head(self) -> Head | None:
        """The classifier's current weights; None if it is not linear."""
        return linear_head(list(self.classifier)) if self.probe.linear else None

    def info(self, labels: Tensor | None = None) -> NetworkInfo:
        """Returns the description of the network, and of a fit set with ``labels`` ``[N]``."""
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
        """Sets the fields that forward passes read besides logits and penultimate feature; none where None.

        Raises:
            InputError: if a tap does not exist or the network has no class token.
        """
        self.close()
        self._reads = reads = Reads() if reads is None else reads
        self._weights = weights_hash(self.network) if self.cache is not None else ""
        self._attention = self._attention_shape if self.cache is not None and reads.attention else None
        self._taps = {name: self._tap(name) for name in dict.fromkeys((*reads.taps, *reads.gradients))}
        self._hooks.read_inputs(self.classifier)
        self._hooks.read_outputs({n: tap.module for n, tap in self._taps.items()}, reads.gradients, self._blank(2))
        if reads.attention:
            self._hooks.read_attention()
        if self.compiler is not None:
            torch.compiler.reset()  # a compiled network would keep its old hooks
            self._call = torch.compile(self.network, backend=self.compiler)

    def close(self) -> None:
        """Removes every hook and restores the network; ``configure`` adds the hooks again."""
        self._hooks.remove()
        self._next = 0

    def __enter__(self) -> Backbone:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def forward(
        self, images: Tensor, labels: Tensor | None = None, index: Tensor | None = None, views: bool = True
    ) -> Features:
        """Runs one forward pass, one more per view, and one more and a backward pass per perturbation.

        Args:
            images: ``[B, 3, H, W]``, preprocessed.
            labels: ``[B]``.
            index: ``[B]`` positions in the data set, best on the host. Where None, images are counted since the last
                ``configure``, so that the same set in the same order has the same positions for any batch size.
            views: whether the views in ``Reads`` are computed too.
        """
        if not self._hooks.attached:
            self.configure(self._reads)
        if index is None:
            index = torch.arange(self._next, self._next + len(images))
            self._next += len(images)
        index = index.cpu()
        wanted = self._reads.views if views else ()
        others: dict[Hashable, Features] = {view: self._read(view(images, index), labels, index)[0] for view in wanted}
        features, perturbed = self._read(images, labels, index, self._reads.perturbations)
        others |= {step: self._read(new, labels, index)[0] for step, new in perturbed.items()}
        return replace(features, views=others)

    def _read(
        self, images: Tensor, labels: Tensor | None, index: Tensor, perturbations: Sequence[Perturbation] = ()
    ) -> tuple[Features, dict[Perturbation, Tensor]]:
        """Returns features from the cache or the network, and the perturbed images."""
        if self.cache is None or perturbations:  # the gradient of a perturbation needs the network
            return self._run(images, labels, index, perturbations)
        key = self.cache.key(images, self._weights)
        stored = self.cache.read(key, self._shapes(images), images.device)
        if stored is not None:
            return from_parts(stored, self.head, labels, index), {}
        features, _ = self._run(images, labels, index)
        self.cache.write(key, to_parts(features))
        return features, {}

    def _shapes(self, images: Tensor) -> dict[str, Shape]:
        """Returns name -> shape of the tensors that a forward pass of a batch gives to the cache."""
        usual = tuple(images.shape[2:]) == tuple(self.input_size)
        count, found = len(images), self.probe
        shapes: dict[str, Shape] = {"logits": (count, found.num_classes), "pooled": (count, found.num_features)}
        for name, tap in self._taps.items():
            shape = (count, *(side if usual or not i else None for i, side in enumerate(tap.shape)))
            shapes |= {f"map:{name}": shape} | ({f"gradient:{name}": shape} if name in self._reads.gradients else {})
        if self._attention is not None:
            shapes["attention"] = (count, self._attention[0], self._attention[1] if usual else None)
        return shapes

    def _run(
        self, images: Tensor, labels: Tensor | None, index: Tensor, perturbations: Sequence[Perturbation] = ()
    ) -> tuple[Features, dict[Perturbation, Tensor]]:
        """Returns features from a forward of the network, and the perturbed images."""
        differentiate = bool(self._reads.gradients or perturbations)
        with torch.inference_mode(False) if differentiate else nullcontext(), torch.set_grad_enabled(differentiate):
            if differentiate:  # an inference tensor cannot be part of a graph
                images = images.detach().clone().requires_grad_(bool(perturbations))
            images = images.to(memory_format=self.layout)
            with self._hooks.recording() as seen:
                logits = logits_of((self.network if differentiate else self._call)(images)).float()
            gradients = self._differentiate(logits, seen, keep=bool(perturbations)) if self._reads.gradients else {}
            features = replace(self._features(logits, seen), gradients=gradients, labels=labels, index=index)
            perturbed = {}
            for i, step in enumerate(perturbations):
                loss = step.total(features)
                gradient = torch.autograd.grad(loss, images, retain_graph=i + 1 < len(perturbations))[0]
                perturbed[step] = step(images, gradient)
        return features.detach(), perturbed

    def trace(self, images: Tensor) -> Features:
        """Runs the network once on ``images`` ``[B, 3, H, W]`` by tensor operations alone, for an exported graph.

        It computes no gradient, view or perturbation, and uses no cache.
        """
        with self._hooks.recording() as seen:
            logits = logits_of(self.network(images)).float()
        return self._features(logits, seen)

    def _features(self, logits: Tensor, seen: dict[str, Tensor]) -> Features:
        return Features(
            logits=logits,
            pooled=torch.cat([seen[f"feature {i}"] for i in range(len(self.probe.classifiers))], dim=1).float(),
            head=self.head,
            maps={name: tap.map(seen[name]) for name, tap in self._taps.items()},
            attention=seen["attention"].float() if "attention" in seen else None,
        )

    def _differentiate(self, logits: Tensor, seen: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
        """Computes d KL(uniform || softmax) / d map for all taps in one backward pass."""
        loss = (
            logits.logsumexp(dim=1) - logits.mean(dim=1)
        ).sum()  # KL(uniform || softmax) + log K, summed over images
        gradients = torch.autograd.grad(loss, [seen[name] for name in self._reads.gradients], retain_graph=keep)
        return {
            name: self._taps[name].channel_first(gradient)
            for name, gradient in zip(self._reads.gradients, gradients, strict=True)
        }

    def _blank(self, count: int) -> Tensor:
        """Returns black images ``[count, 3, H, W]`` on the network's device."""
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
