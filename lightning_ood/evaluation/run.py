"""``evaluate``: fits detectors on training images, scores test images, returns the table."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from lightning_ood.backbone import Backbone
from lightning_ood.backbone.inspect import evaluating
from lightning_ood.backbone.stored import make_backbone
from lightning_ood.data.checks import check_names
from lightning_ood.data.labels import NONE
from lightning_ood.detectors import list_detectors
from lightning_ood.detectors.base import Detector
from lightning_ood.errors import InputError, context, write_one_of
from lightning_ood.evaluation.result import Evaluation
from lightning_ood.evaluation.sets import IMAGES, ROWS, Images, Unpack, images_and_labels, open_images
from lightning_ood.features import Head
from lightning_ood.networks.build import build
from lightning_ood.networks.preprocess import Preprocess
from lightning_ood.networks.stored import StoredFeatures
from lightning_ood.ops.memory import keep_freed_memory
from lightning_ood.suite import DetectorSuite

CORE = ("MSP", "MaxLogit", "Energy", "ReAct", "KNN", "ViM", "NAP", "LINe", "NAC", "FeatureNorm", "Fusion")
Named = str | type[Detector] | Detector


def evaluate(
    network: nn.Module | Backbone | Head | str,
    *,
    id_test: Any,
    ood: Mapping[str, Any],
    id_train: Any = None,
    detectors: Sequence[Named] | Mapping[str, Detector] = CORE,
    val_ood: Iterable[Any] = (),
    preprocess: Mapping[str, Any] | Callable[..., Any] | None = None,
    weights: str = "pretrained",
    head: str | None = None,
    device: torch.device | str | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    unpack: Unpack = images_and_labels,
    progress: bool | None = None,
    keep_memory: bool = True,
) -> Evaluation:
    """Fits detectors on ID training images, scores ID and OOD test images, and returns the table.

    Each image goes through the network once, whatever the number of detectors (and once more per view that a detector
    fits on, such as FeatureNorm's jigsaw). The network is left as it was.

    A set is a DataLoader, a Dataset, a folder, an image list, or an array or tensor of images, alone or in a tuple with
    the labels. Floating tensors are taken as preprocessed; files, PIL images and uint8 pixels are preprocessed here.

    With a ``Head`` in place of the network, sets hold penultimate features ``[N, D]``, arrays or tables. Detectors that
    read more than logits and penultimate feature are left out.

    Args:
        network: an image classifier, a ``Backbone``, a name such as ``timm:resnet18``, or the ``Head`` of features.
        id_test: ID test images.
        ood: ``<group>/<name>`` or ``<name>`` -> OOD test images.
        id_train: ID training images that detectors are fitted on; without them, detectors that need a fit are left out.
        detectors: names of classes in ``lightning_ood.detectors`` in any case, classes, detectors, or name -> detector.
        val_ood: sets of validation OOD images, which searches read.
        preprocess: fields of the network's preprocessing (``size``, ``mean``, ``std``, …) or a function from a PIL
            image to a tensor; the network's own (timm's config) where None.
        weights: of a network that is given by name; see ``model.weights``.
        head: name of the classifier's module, if it is not found.
        device: where the network runs; where it is if None, and a GPU for a name where there is one.
        batch_size: of sets that are no DataLoader.
        num_workers: processes that read images, likewise.
        unpack: takes a batch of a DataLoader apart into images and labels.
        progress: whether a progress bar is shown; in a terminal where None.
        keep_memory: keep freed memory on the CPU, which is faster and takes about 1.3 times as much (glibc).

    Raises:
        InputError: if a set, the network or a detector cannot be used, or no detector is left.
    """
    if keep_memory:
        keep_freed_memory()
    suite = DetectorSuite(_named(detectors))
    groups = _groups(ood)
    module, own = _network(network, weights, preprocess, device)
    transform = preprocess if callable(preprocess) else own.transform() if own is not None else None

    def opened(name: str, source: Any, labelled: bool = True) -> Images:
        form = ROWS if isinstance(module, StoredFeatures) else IMAGES
        return open_images(name, source, transform, batch_size, num_workers, unpack, labelled, form)

    train = None if id_train is None else opened("id_train", id_train)
    tests = {"id": opened("id_test", id_test)}
    tests |= {key: opened(f"ood[{key!r}]", source, labelled=False) for key, source in ood.items()}
    others = [opened(f"val_ood[{i}]", source, labelled=False) for i, source in enumerate(val_ood)]
    size = own.size if own is not None else _size(tests["id"])
    mean, std = ((0.0,) * 3, (1.0,) * 3) if own is None else (own.mean, own.std)
    backbone = module if isinstance(module, Backbone) else make_backbone(module, size, head, mean, std)
    run = _Run(backbone, suite, _bar(progress))
    with backbone, evaluating(backbone.network):
        failed = run.fit(train, others)
        parts = [run.score(images, *groups[key]) for key, images in tests.items()]
    table = pd.concat(parts, ignore_index=True)
    return Evaluation(table, suite, failed)


class _Run:
    """One fit and one test of a suite on a backbone."""

    def __init__(self, backbone: Backbone, suite: DetectorSuite, bar: Callable[[Images], Any]) -> None:
        self.backbone, self.suite, self.bar = backbone, suite, bar
        self.device = next((p.device for p in backbone.network.parameters()), torch.device("cpu"))

    @torch.inference_mode()
    def fit(self, train: Images | None, others: Sequence[Images]) -> dict[str, str]:
        """Fits the detectors; returns name -> why one cannot be used, and takes it out of the suite."""
        suite, backbone = self.suite, self.backbone
        failed: dict[str, str] = {}
        batches = iter(()) if train is None or not suite.requiring_fit else self._batches(train)
        first = next(batches, None)
        if train is None:
            failed = dict.fromkeys(suite.requiring_fit, "it has to be fitted, and there is no id_train")
        elif first is not None and not bool((first.label != NONE).any()):
            suite.refuse_without_labels()
        failed |= self._set_up(train, failed)
        if first is not None and suite.unfitted:
            suite.to(self.device)
            reads = suite.reads("fit")
            backbone.configure(reads)
            for batch in chain([first], batches):
                label = batch.label if bool((batch.label != NONE).any()) else None
                suite.update(backbone(batch.image, label, batch.index))
            for images in others if reads.val_ood else ():
                for batch in self._batches(images):
                    suite.update_ood(backbone(batch.image, None, batch.index, views=False))
            failed |= {name: str(reason) for name, reason in suite.compute().items()}
        return self._without(failed)

    def _set_up(self, train: Images | None, failed: Mapping[str, str]) -> dict[str, str]:
        """Sets up the detectors that this network can have."""
        info = self.backbone.info(None if train is None else train.labels)
        for name in failed:
            del self.suite.detectors[name]
        refused = self.suite.leave_out_unusable(info)
        if not self.suite.detectors:
            raise InputError("; ".join(f"{name}: {reason}" for name, reason in {**failed, **refused}.items()))
        self.suite.setup(info)
        return refused

    def _without(self, failed: dict[str, str]) -> dict[str, str]:
        for name, reason in failed.items():
            self.suite.detectors.pop(name, None)
            warnings.warn(f"{name} is left out: {reason}", stacklevel=4)
        if not self.suite.detectors:
            raise InputError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
        return failed

    @torch.inference_mode()
    def score(self, images: Images, dataset: str, role: str, group: str) -> pd.DataFrame:
        """Scores a set; returns its rows of scores.parquet."""
        self.backbone.configure(self.suite.to(self.device).reads("test"))
        rows, columns = [], []
        for batch in self._batches(images, labelled=role == "id"):
            with context(images.name):
                features = self.backbone(batch.image, None, batch.index)
                columns.append(self.suite.score(features).cpu())  # [B, detectors]
            rows.append(torch.stack([batch.index, batch.label.cpu(), features.prediction.cpu()], dim=1))  # [B, 3]
        if not rows:
            raise InputError(f"{images.name} has no images")
        index, label, prediction = torch.cat(rows).numpy().T
        scores = torch.cat(columns).numpy()
        self._check(scores, images.name)
        table = pd.DataFrame({"dataset": dataset, "role": role, "group": group, "index": index})
        table["path"] = [images.paths[i] if images.paths else None for i in index]
        table["label"] = pd.array(np.where(label < 0, 0, label), dtype="Int64")
        table.loc[label < 0, "label"] = pd.NA
        table["prediction"] = prediction
        return table.assign(**{name: scores[:, i] for i, name in enumerate(self.suite.detectors)})

    def _check(self, scores: np.ndarray, name: str) -> None:
        for detector, column in zip(self.suite.detectors, scores.T, strict=True):
            bad = np.flatnonzero(~np.isfinite(column))
            if len(bad):
                raise InputError(f"detector {detector!r} on {name}, image {bad[0]}: {column[bad[0]]}; leave it out")

    def _batches(self, images: Images, labelled: bool = True) -> Iterator[Any]:
        with self.bar(images) as advance:
            for batch in images.batches(labelled):
                yield batch._replace(image=batch.image.to(self.device), label=batch.label.to(self.device))
                advance()


def _named(detectors: Sequence[Named] | Mapping[str, Detector]) -> dict[str, Detector]:
    """Returns name -> detector.

    Raises:
        InputError: if a name is unknown, or stands twice.
    """
    if isinstance(detectors, Mapping):
        return dict(detectors)
    if isinstance(detectors, str | Detector | type):
        detectors = [detectors]
    known = {name.lower(): kind for name, kind in list_detectors().items()}
    found: dict[str, Detector] = {}
    for one in detectors:
        if isinstance(one, str):
            key = one.lower().replace("_", "")
            if key not in known:
                raise InputError(f"no detector is called {one!r}; {write_one_of(one, list_detectors())}")
            one = known[key]
        made = one() if isinstance(one, type) else one
        if not isinstance(made, Detector):
            raise InputError(f"a {type(made).__name__} is no detector: give a name, a class or an instance of Detector")
        name = type(made).__name__
        if name in found:
            raise InputError(f"two detectors are called {name}: give a mapping with a name for each")
        found[name] = made
    return found


def _groups(ood: Mapping[str, Any]) -> dict[str, tuple[str, str, str]]:
    """Returns key -> data set, role and group of its rows."""
    if not ood:
        raise InputError("ood is empty: give at least one set, ood={'near/x': images}")
    keys = {key: key if "/" in key else f"ood/{key}" for key in ood}
    check_names("id", keys.values(), ())
    groups = {key: (name, "ood", group) for key, (group, _, name) in ((k, v.partition("/")) for k, v in keys.items())}
    return {"id": ("id", "id", "id"), **groups}


def _network(
    network: nn.Module | Backbone | Head | str, weights: str, preprocess: Any, device: torch.device | str | None
) -> tuple[nn.Module, Preprocess | None]:
    """Returns the network, on its device and frozen as far as this call goes, and its preprocessing."""
    changes = dict(preprocess) if isinstance(preprocess, Mapping) else {}
    if isinstance(network, str):
        built = build(network, weights=weights, preprocess=changes)
        gpu = "cuda" if torch.cuda.is_available() else "cpu"
        return built.network.to(device or gpu), built.preprocess
    if isinstance(network, Head):
        network = StoredFeatures.of(network)
    module = network.network if isinstance(network, Backbone) else network
    config: Any = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    own = None
    if config:
        own = Preprocess.from_config(config.to_dict() if hasattr(config, "to_dict") else config).override(**changes)
    elif changes:
        own = Preprocess.of(**changes)
    return (network if device is None else network.to(device)), own


def _size(images: Images) -> tuple[int, int]:
    """Returns ``(H, W)`` of the first image."""
    shape = next(iter(images.batches())).image.shape
    return shape[-2], shape[-1]


def _bar(shown: bool | None) -> Callable[[Images], Any]:
    """Returns a context that shows the progress through a set and yields what is called after each batch."""
    if not (sys.stderr.isatty() if shown is None else shown):
        return lambda images: nullcontext(lambda: None)
    from lightning_ood.ops.console import progress

    return lambda images: progress(images.name, len(images) or None)
