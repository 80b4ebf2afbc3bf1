"""A detector that was exported: images in, decisions out. Needs neither training data nor Lightning."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_ood.backbone import Backbone
from lightning_ood.data.images import ImageError
from lightning_ood.deploy.calibration import Calibration
from lightning_ood.deploy.conformal import check_accept, rank, too_small
from lightning_ood.deploy.inputs import Named, decode, named
from lightning_ood.deploy.prediction import Prediction, Rule, discover
from lightning_ood.errors import InputError, NotFiniteError
from lightning_ood.networks.preprocess import Preprocess
from lightning_ood.suite import DetectorSuite


class ExportedDetector:
    """Decides about images: ID or OOD. :func:`lightning_ood.load_detector` makes it from an exported folder.

    Several threads may share one; their forward passes take turns.

    Args:
        backbone: the network, configured for what the detectors read.
        suite: the fitted detectors.
        preprocess: of images.
        calibration: scores of the calibration images.
        accept: default share of ID images that is accepted.
        classes: names of the classes.
        device: where the network is.
        upright: whether images are turned as their EXIF orientation says.
        header: header of the folder.
    """

    def __init__(
        self,
        backbone: Backbone,
        suite: DetectorSuite,
        preprocess: Preprocess,
        calibration: Calibration,
        accept: float,
        classes: list[str] | None = None,
        device: torch.device | str = "cpu",
        upright: bool = False,
        header: dict[str, Any] | None = None,
    ) -> None:
        self.backbone, self.suite, self.preprocess, self.calibration = backbone, suite, preprocess, calibration
        self.accept, self.device, self.upright, self.header = accept, torch.device(device), upright, header or {}
        self._one_at_a_time = Lock()  # the network's hooks record one forward pass
        self.classes = classes or [str(k) for k in range(backbone.probe.num_classes)]

    @property
    def detectors(self) -> list[str]:
        """Names of the detectors; the first decides unless another is named."""
        return list(self.suite.detectors)

    def predict(
        self,
        images: Any,
        *,
        detector: str | None = None,
        accept: float | None = None,
        threshold: float | None = None,
        fdr: float | None = None,
        by_class: bool = False,
        batch_size: int = 64,
        bad_images: Literal["error", "skip"] = "error",
    ) -> list[Prediction]:
        """Decides about images, each of which goes through the network once.

        Args:
            images: a path, folder, PIL image, array ``[H, W, C]`` or ``[B, H, W, C]``, tensor ``[C, H, W]`` or
                ``[B, C, H, W]`` (uint8, or floats in [0, 1]), or an iterable of these.
            detector: the detector that decides; the first where None.
            accept: share of ID images that is accepted; that of the export where None.
            threshold: a score below which an image is OOD, in place of ``accept``.
            fdr: decides by Benjamini and Hochberg's rule over all images: on average at most this share of the images
                called OOD is ID.
            by_class: p-values within the predicted class.
            batch_size: images per forward.
            bad_images: stop at an image that cannot be read, or return it with an ``error``.
        """
        rule = self.rule(detector, accept, threshold, by_class, fdr)
        found = list(self.stream(images, rule, batch_size, bad_images))
        return found if fdr is None else discover(found, fdr)

    def rule(
        self,
        detector: str | None = None,
        accept: float | None = None,
        threshold: float | None = None,
        by_class: bool = False,
        fdr: float | None = None,
    ) -> Rule:
        """Returns the rule that decides, with the defaults of the export; the arguments are those of ``predict``.

        With ``fdr`` it gives the p-values alone: see :func:`discover`.

        Raises:
            InputError: if there is no such detector, or too few calibration images for the acceptance.
        """
        if fdr is not None and (threshold is not None or accept is not None or by_class):
            raise InputError("fdr decides by itself: leave out accept, threshold and by_class")
        if threshold is not None and (accept is not None or by_class):
            raise InputError("threshold decides by itself: leave out accept and by_class")
        name = self.detectors[0] if detector is None else self.calibration.check_name(detector)
        share = check_accept(self.accept if accept is None else accept)
        if threshold is None:
            rank(len(self.calibration), share)
        return Rule(name, share, threshold, by_class)

    def too_small(self, accept: float | None = None) -> dict[str, int]:
        """Returns class -> number of its calibration images, where these are too few for a decision within the class.

        An image of such a predicted class is never called OOD with ``by_class``.
        """
        found = too_small(self.calibration.predictions, self.accept if accept is None else accept, len(self.classes))
        return {self.classes[label]: count for label, count in found.items()}

    def stream(
        self,
        images: Any,
        rule: Rule | None = None,
        batch_size: int = 64,
        bad_images: Literal["error", "skip"] = "error",
    ) -> Iterator[Prediction]:
        """Yields predictions in order, a batch at a time; memory does not grow with the number of images."""
        rule = rule or self.rule()
        iterator = named(images)
        with ThreadPoolExecutor(max_workers=4) as pool:
            while some := list(islice(iterator, batch_size)):
                tensors = list(pool.map(self._tensor, some))
                read = [i for i, tensor in enumerate(tensors) if isinstance(tensor, Tensor)]
                for tensor in tensors:
                    if isinstance(tensor, ImageError) and bad_images == "error":
                        raise tensor
                decided = iter(self._decide([some[i] for i in read], [tensors[i] for i in read], rule))
                for one, tensor in zip(some, tensors, strict=True):
                    made = next(decided) if isinstance(tensor, Tensor) else Prediction(one.name, error=str(tensor))
                    if made.error and bad_images == "error":
                        raise NotFiniteError(f"{made.image}: {made.error}")
                    yield made

    def score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores preprocessed images ``[B, 3, H, W]``: logits ``[B, K]`` and scores ``[B, detectors]``, on the host."""
        with self._one_at_a_time, torch.inference_mode():
            features = self.backbone(images.to(self.device), index=torch.arange(len(images)))
            return features.logits.cpu(), self.suite.score(features).cpu()

    def _tensor(self, one: Named) -> Tensor | ImageError:
        if isinstance(one.image, Tensor) and one.image.ndim == 1:
            return one.image.float()  # a row of stored features
        try:
            return self.preprocess.transform()(decode(one.image, self.upright))
        except ImageError as error:
            where = "" if one.name in str(error) else f"{one.name}: "
            return ImageError(f"{where}{str(error).partition('; repair it')[0]}")

    def _decide(self, some: list[Named], tensors: list[Any], rule: Rule) -> list[Prediction]:
        if not some:
            return []
        logits, scores = self.score(torch.stack(tensors))
        probabilities, labels = logits.softmax(dim=1).max(dim=1)  # [B] each
        predictions, table = labels.numpy(), scores.numpy()
        finite = np.isfinite(table).all(axis=1)  # [B]
        within = predictions if rule.by_class else None
        columns = {name: table[:, i] for i, name in enumerate(self.detectors)}
        p_values = {name: self.calibration.p_values(name, column, within) for name, column in columns.items()}
        if rule.threshold is None:
            flags = p_values[rule.detector] <= 1 - rule.accept + 1e-9
        else:
            flags = columns[rule.detector] < np.float32(rule.threshold)
        return [
            Prediction(one.name, error="a score is not finite: the image gives the network no usable feature")
            if not finite[i]
            else Prediction(
                image=one.name,
                label=self.classes[predictions[i]],
                class_index=int(predictions[i]),
                probability=float(probabilities[i]),
                score=float(columns[rule.detector][i]),
                p_value=float(p_values[rule.detector][i]),
                is_ood=bool(flags[i]),
                scores={name: float(column[i]) for name, column in columns.items()},
                p_values={name: float(column[i]) for name, column in p_values.items()},
            )
            for i, one in enumerate(some)
        ]
