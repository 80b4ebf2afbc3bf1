"""The public contract of a detector: the rules that every detector has to keep."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_ood.detectors.base import Detector
from lightning_ood.features import Features, NetworkInfo, Reads
from lightning_ood.metrics.rates import auroc
from lightning_ood.suite import DetectorSuite
from lightning_ood.testing.assertions import require, require_refusal, require_same
from lightning_ood.testing.neighbours import check_neighbours
from lightning_ood.testing.no_wait import never_waiting
from lightning_ood.testing.toy import Toy, permuted

Make = Callable[[], Detector]
Fit = tuple[Detector, dict[str, Tensor]]


def check_detector(
    make: Make, *, separates: bool = True, permutable: bool = True, attention: bool = False, queued: bool = True
) -> None:
    """Checks a detector against all rules that the package relies on. Needs no download and less than a second.

    Fit: it is the same for any batches, for merged processes (also with one that has no images) and after a reset; a
    fit without images raises. Scores: one finite number per image, the same in any batch and order and after
    ``torch.save``; inputs are not changed; scoring before the fit raises. Device: ``update`` and ``score`` queue their
    work and do not wait for it; they read no number back, no shape depends on a value, and no copy blocks. Scores are
    finite for a dead unit, a class without images, zero and negative features. Undeclared fields are not available.

    Args:
        make: builds a new detector, the same each time.
        separates: require an AUROC of at least 0.9 between ID images of a toy network and weak noise. Switch it off,
            and say why, for a detector that is not meant to separate these.
        permutable: require the same scores if the penultimate units are in another order.
        attention: use a network with a class token.
        queued: require that the detector never waits for a device. Switch it off for one that runs on a CPU only.

    Raises:
        AssertionError: naming the detector and the rule that it breaks.
    """
    toy = Toy(attention=attention)
    reads, batch = _train_features(make, toy)
    fit = _fit(make, toy, [batch])
    reads = replace(reads, perturbations=tuple(fit[0].perturbations(fit[1])))
    id_test, ood_test = toy(toy.id_test(), reads), toy(toy.ood_test(), reads)
    _check_scores(*fit, id_test)
    _check_scores(*fit, ood_test)
    _check_fit(make, toy, batch, fit, id_test)
    _check_refusals(make, toy, batch, id_test)
    _check_saved(*fit, id_test)
    check_neighbours(make, toy)
    if queued:
        _check_queued(make, toy, batch, fit, id_test)
    _check_extremes(make, toy)
    if separates:
        _check_separates(fit, id_test, ood_test)
    if permutable:
        _check_order_of_units(make, toy, batch, fit, id_test)


def _check_separates(fit: Fit, id_test: Features, ood_test: Features) -> None:
    """Checks that ID images score above weak noise with an AUROC of at least 0.9."""
    separation = auroc(_score(*fit, id_test), _score(*fit, ood_test))
    require(separation >= 0.9, fit[0], f"ID images score above weak noise (AUROC {separation:.3f})")


def _check_order_of_units(make: Make, toy: Toy, batch: Features, fit: Fit, id_test: Features) -> None:
    """Checks that scores are the same if the penultimate units are in another order."""
    order = torch.randperm(batch.pooled.shape[1], generator=torch.Generator().manual_seed(0))
    other = _fit(make, toy, [permuted(batch, order)], order)
    scores, expected = _score(*other, permuted(id_test, order)), _score(*fit, id_test)
    require_same(scores, expected, fit[0], "the order of units is arbitrary")


def _check_fit(make: Make, toy: Toy, batch: Features, fit: Fit, id_test: Features) -> None:
    """Checks that the fit does not depend on batches, processes or an earlier fit before a reset."""
    detector, expected = fit[0], _score(*fit, id_test)

    def check(other: Fit, what: str) -> None:
        require_same(_score(*other, id_test), expected, detector, what)

    pieces = [batch.select(slice(a, b)) for a, b in ((0, 1), (1, 150), (150, 151), (151, None))]
    check(_fit(make, toy, pieces), "the fit does not depend on how images are batched")
    check(_fit(make, toy, pieces[::-1]), "the fit does not depend on the order of batches")
    check(_merged(make, toy, [pieces[:2], pieces[2:]]), "two processes fit as one")
    check(_merged(make, toy, [pieces, []]), "a process without images changes nothing")
    check(_merged(make, toy, [[], pieces]), "a first process without images changes nothing")
    again = _new(make, toy)
    again.update(batch.select(slice(0, 100)))
    again.reset()
    if again.requires_fit:
        require_refusal(lambda: again.compute(), again, "compute refuses an empty fit, after a reset too")
    again.update(batch)
    check((again, again.compute()), "reset forgets")


def _check_scores(detector: Detector, fitted: dict[str, Tensor], features: Features) -> None:
    """Checks that scores are one finite number per image, depend on that image alone, and inputs are not changed."""
    before = {**fitted, **_tensors(features)}
    copies = {key: value.clone() for key, value in before.items()}
    scores = _score(detector, fitted, features)
    for key, value in copies.items():
        require(torch.equal(before[key], value), detector, f"score leaves {key} as it is")
    order = torch.arange(len(features)).flip(0)
    require_same(
        _score(detector, fitted, features.select(order)), scores[order], detector, "the order of images is arbitrary"
    )
    pieces = [features.select(slice(a, b)) for a, b in ((0, 1), (1, 20), (20, None))]
    split = torch.cat([_score(detector, fitted, piece) for piece in pieces])
    require_same(split, scores, detector, "an image's score does not depend on its batch")


def _check_refusals(make: Make, toy: Toy, batch: Features, id_test: Features) -> None:
    """Checks that misuse and unsuitable networks raise an InputError."""
    detector = _new(make, toy)
    if detector.requires_fit:
        require_refusal(lambda: detector.score(id_test, {}), detector, "score refuses to run before the fit")
        require_refusal(lambda: detector.compute(), detector, "compute refuses an empty fit")
    else:
        require(detector.compute() == {}, detector, "what fits nothing computes {}")
    if detector.requires_fit and detector.needs_labels:
        require_refusal(lambda: _fit_unlabelled(make, toy, batch), detector, "update refuses a batch without labels")
    elif detector.requires_fit:
        _fit_unlabelled(make, toy, batch)  # what uses labels says so: `labels = True`
    reads, whole = detector.reads, toy.info()
    bare: dict[str, NetworkInfo] = {}
    if reads.taps:
        bare["maps"] = replace(whole, maps={}, blocks=())
    if reads.head:
        bare["a linear classifier"] = replace(whole, head=None)
    for what, info in bare.items():
        require_refusal(lambda info=info: make().setup(info), detector, f"setup refuses a network without {what}")  # type: ignore[misc]


def _check_saved(detector: Detector, fitted: dict[str, Tensor], id_test: Features) -> None:
    """Checks that fitted tensors score the same after they are saved and loaded."""
    for key, value in fitted.items():
        require(isinstance(value, Tensor) and not value.isnan().any(), detector, f"{key} is a tensor without NaN")
    file = io.BytesIO()
    torch.save(fitted, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    alike = torch.equal(_score(detector, loaded, id_test), _score(detector, fitted, id_test))
    require(alike, detector, "saved fits score alike")
    for key, value in detector.summary(fitted).items():
        require(isinstance(value, float | int | str | dict), detector, f"summary's {key} is a plain value")


def _check_extremes(make: Make, toy: Toy) -> None:
    """Checks scores of a zero feature, and of a network with negative features."""
    signed = Toy(attention=toy.attention, signed=True)
    for net in (toy, signed):
        reads, batch = _train_features(make, net)
        fit = _fit(make, net, [batch])
        id_test = net(net.id_test(), replace(reads, perturbations=tuple(fit[0].perturbations(fit[1]))))
        _check_scores(*fit, id_test)
        zero = replace(
            id_test,
            pooled=id_test.pooled * 0,
            logits=net.head(id_test.pooled * 0),
            maps={tap: value * 0 for tap, value in id_test.maps.items()},
            gradients={tap: value * 0 for tap, value in id_test.gradients.items()},
        )
        _check_scores(*fit, zero)


def _check_queued(make: Make, toy: Toy, batch: Features, fit: Fit, id_test: Features) -> None:
    """Checks that no operation waits for the device; ``meta`` tensors stand in for device tensors."""
    suite = DetectorSuite({"": _new(make, toy)})
    suite.fitted = {"": fit[1]} if fit[1] else {}
    suite.to("meta")
    detector, train, test = suite.detectors[""], batch.to("meta"), id_test.to("meta")
    steps: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("update", lambda: detector.update(train)),
        ("score", lambda: suite.score(test)),
    )
    for name, step in steps:
        try:
            with never_waiting():
                step()
        except (RuntimeError, NotImplementedError) as error:
            require(False, detector, f"{name} queues its work and does not wait for the device ({error})")


def _new(make: Make, toy: Toy, order: Tensor | None = None) -> Detector:
    detector = make()
    info = toy.info(toy.train().labels)
    if order is not None:
        assert info.head is not None
        info = replace(info, head=replace(info.head, weight=info.head.weight[:, order]))
    detector.setup(info)
    return detector


def _train_features(make: Make, toy: Toy) -> tuple[Reads, Features]:
    reads = _new(make, toy).reads
    return replace(reads, views=()), toy(toy.train(), reads)


def _fit(make: Make, toy: Toy, batches: Sequence[Features], order: Tensor | None = None) -> Fit:
    detector = _new(make, toy, order)
    for batch in batches:
        detector.update(batch)
    return detector, detector.compute()


def _fit_unlabelled(make: Make, toy: Toy, batch: Features) -> None:
    detector = make()
    detector.setup(toy.info())
    detector.update(replace(batch, labels=None))


def _merged(make: Make, toy: Toy, shares: Sequence[Sequence[Features]]) -> Fit:
    first, *others = [_new(make, toy) for _ in shares]
    for detector, share in zip((first, *others), shares, strict=True):
        for batch in share:
            detector.update(batch)
    if shares[0]:
        first.compute()  # a merge after a compute has to count too
    for other in others:
        first.merge_state(other)
    return first, first.compute()


def _score(detector: Detector, fitted: Mapping[str, Tensor], features: Features) -> Tensor:
    scores = detector.score(features, fitted)
    require(tuple(scores.shape) == (len(features),), detector, f"score gives [B], not {tuple(scores.shape)}")
    require(scores.dtype in (torch.float32, torch.float64), detector, f"scores are float32 or better: {scores.dtype}")
    require(bool(scores.isfinite().all()), detector, "scores are finite")
    return scores


def _tensors(features: Features) -> dict[str, Tensor]:
    tensors = {"logits": features.logits, "pooled": features.pooled}
    tensors |= {f"map {tap}": value for tap, value in features.maps.items()}
    if features.head is not None:
        tensors |= {"the classifier's weight": features.head.weight, "the classifier's bias": features.head.bias}
    return tensors
