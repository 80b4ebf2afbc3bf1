"""A detector on the maps of several layers, joined without OOD data; with MDS, the layer ensemble of Lee et al. (2018).

https://arxiv.org/abs/1807.03888, section 2.2
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from lightning_ood.detectors._contract import nest, unnest
from lightning_ood.detectors.base import Detector, Fitted
from lightning_ood.detectors.calibration import Calibration, check_share, split, stream_of
from lightning_ood.detectors.combine.fusion import RobustZ, Rule
from lightning_ood.detectors.doubts import Seen, inside
from lightning_ood.detectors.gram import last_of_each_size
from lightning_ood.detectors.mds import MDS
from lightning_ood.detectors.ranges import check_at_least
from lightning_ood.errors import InputError, context
from lightning_ood.features import Features, NetworkInfo


class Layers(Detector):
    """Fits a detector on each of several maps, averaged over positions, and joins their scores by a rule.

    A copy of ``of`` sees the mean of a map over its positions ``[B, C]`` in place of the penultimate feature, and the
    network's logits. The score is ``rule(scores, id_scores)``, with ``id_scores`` the scores of all copies on
    ``images`` training images.

    Fits the copies and ``id_scores`` ``[n, maps]``; labels are needed where ``of`` needs them. State: that of the
    copies, and ``C + K`` numbers per image and map for the calibration.

    Deviations from the layer ensemble of MDS: Lee et al. (and OpenOOD's ``mds_ensemble``) weight the layers by a
    logistic regression on OOD images and perturb the image; here layers are joined by robust z-scores, without either.

    Args:
        of: the detector, one that reads the penultimate feature alone (MDS, KNN, Residual, CoP, CTM, GMM, ...); MDS
            where None.
        maps: names of the maps; the last block of each resolution where None.
        rule: how scores are joined; the sum of robust z-scores where None.
        images: largest number of training images for the calibration.
        held_out: fraction of the training images for the calibration, on which the copies are not fitted; with 0 they
            are fitted and calibrated on the same images.
        seed: seed of the sample.

    Raises:
        InputError: if ``of`` reads more than the penultimate feature and the logits.
    """

    map_form = "mean"
    reads_logits = False

    def __init__(
        self,
        of: Detector | None = None,
        maps: list[str] | None = None,
        rule: Rule | None = None,
        images: int = 4000,
        held_out: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_share(held_out)
        check_at_least("images", images, 2)
        self.of = MDS() if of is None else of
        self.maps, self.rule = maps, RobustZ() if rule is None else rule
        self.images, self.held_out, self.seed = images, held_out, seed
        self.copies = nn.ModuleList()

    def setup(self, info: NetworkInfo) -> None:
        """Copies the detector for each map.

        Raises:
            InputError: if a map does not exist, or the detector reads the classifier, maps, views or perturbed images.
        """
        self.taps = tuple(self.maps if self.maps is not None else last_of_each_size(info))
        if not self.taps:
            raise InputError("Layers: no blocks were found in this network; name its maps in `maps`")
        self.head, self.stream, name = info.head, stream_of(info), type(self.of).__name__
        self.copies = nn.ModuleList(copy.deepcopy(self.of) for _ in self.taps)
        self.calibrations = nn.ModuleList()
        for tap, one in zip(self.taps, self._detectors(), strict=True):
            self._require_map(tap, info)
            inner = replace(
                info.holding_out() if self.held_out else info.sharing(),
                num_features=info.maps[tap][0],
                head=None,
                maps={},
                blocks=(),
                attention=None,
            )
            with context(f"Layers gives {name} a map in place of the penultimate feature"):
                one.setup(inner)
            reads = one.reads
            if reads.views or reads.attention or reads.val_ood or one.extra_forwards["test"]:
                raise InputError(f"Layers: {name} reads more than the penultimate feature and the logits; name another")
            self.calibrations.append(Calibration([one], self.images, inner, self.seed))

    def update(self, features: Features) -> None:
        """Adds the maps of a batch to the copies and to the samples for calibration."""
        for layer, one, calibration in zip(self._layers(features), self._detectors(), self.calibrations, strict=True):
            share = self.held_out if self.of.requires_fit else 0.0
            fitted_on, scored_on = split(layer, share, self.seed, self.stream)
            calibration.update(scored_on)  # type: ignore[operator]
            if one.requires_fit and len(fitted_on):
                one.update(fitted_on)

    def compute(self) -> dict[str, Tensor]:
        """Computes ``id_scores`` ``[n, maps]`` and the fit of each copy, under its map's name.

        Raises:
            InputError: if there are fewer than two training images for the calibration.
        """
        fits = [one.compute() if one.requires_fit else {} for one in self._detectors()]
        columns = [c.compute([fitted]) for c, fitted in zip(self.calibrations, fits, strict=True)]  # type: ignore[operator]
        id_scores = torch.cat(columns, dim=1)
        if len(id_scores) < 2:
            raise InputError(
                f"Layers has {len(id_scores)} training images to calibrate on, and needs two: fit on more images, or "
                "raise `held_out`"
            )
        nested = [nest(str(i), fitted) for i, fitted in enumerate(fits)]
        return {"id_scores": id_scores, **{key: value for layer in nested for key, value in layer.items()}}

    def score(self, features: Features, fitted: Fitted) -> Tensor:
        """Scores a batch with the rule: ``[B]`` float64."""
        return self.rule(self._scores(features, fitted), fitted["id_scores"])

    def log_score(self, features: Features, fitted: Fitted) -> Tensor:
        """Returns the score ``[B]``, a sum of evidence, which is used as a logarithm."""
        return self.score(features, fitted)

    def summary(self, fitted: Fitted) -> dict[str, float | str]:
        """Returns the median of each map's score on ID images."""
        medians = fitted["id_scores"].median(0).values.tolist()
        return {"images": len(fitted["id_scores"]), **dict(zip(self.taps, medians, strict=True))}

    def doubts(self, fitted: Fitted, seen: Seen) -> list[str]:
        """Doubts a map on which all training images have the same score."""
        same = fitted["id_scores"].amin(0) == fitted["id_scores"].amax(0)
        said = ["it gives all training images the same score: it adds nothing; leave it out"]
        return [
            doubt for tap, alike in zip(self.taps, same.tolist(), strict=True) if alike for doubt in inside(tap, said)
        ]

    @property
    def requires_fit(self) -> bool:
        """Always, for the calibration."""
        return True

    def _detectors(self) -> list[Detector]:
        return list(self.copies)  # type: ignore[arg-type]

    def _layers(self, features: Features) -> list[Features]:
        """Returns the batch as each copy sees it."""
        bare = replace(features, head=None, maps={}, gradients={}, attention=None, views={})
        return [replace(bare, pooled=features.maps[tap].float().flatten(2).mean(2)) for tap in self.taps]

    def _scores(self, features: Features, fitted: Fitted) -> Tensor:
        layers = zip(self._layers(features), self._detectors(), strict=True)
        scores = [one.score(layer, unnest(str(i), fitted)).double() for i, (layer, one) in enumerate(layers)]
        return torch.stack(scores, dim=1)  # [B, maps]
