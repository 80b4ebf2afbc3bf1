"""The public contract: what every detector keeps to, whoever wrote it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lightning_ood.detectors import list_detectors
from lightning_ood.detectors.base import Detector
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo, Reads
from lightning_ood.metrics.rates import auroc
from lightning_ood.suite import DetectorSuite
from lightning_ood.testing.no_wait import never_waiting
from lightning_ood.testing.toy import Toy, permuted

Make = Callable[[], Detector]
Fit = tuple[Detector, dict[str, Tensor]]


def check_detector(
    make: Make, *, separates: bool = True, permutable: bool = True, attention: bool = False, queued: bool = True
) -> None:
    """Runs a detector through what the code relies on. Nothing is downloaded; takes well under a second.

    Fit: the same from any batches, from merged processes (one without images among them) and after a reset; refused
    without images. Scores: one finite number an image, the same in any batch and order, after ``torch.save``; inputs
    stay as they are; scoring before the fit is refused. ``update`` and ``score`` queue their work on a device and do
    not wait for it: no number is read back, no shape depends on one, nothing is sent that has to arrive first. A dead
    unit, a class without images, zero and negative features give finite scores. Only what the detector declares is
    there to be read.

    Args:
        make: gives a new detector, the same each time.
        separates: expect an AUROC of at least 0.9 between images that a toy network knows and weak noise. Switch it
            off, and say why, for a detector that answers another question.
        permutable: expect the same scores where the penultimate units are in another order.
        attention: try it on a network with a class token.
        queued: expect that it never waits for a device. Switch it off for one that runs on a CPU alone.

    Raises:
        AssertionError: naming the detector and what it does not keep to.
    """
    toy = Toy(attention=attention)
    reads, batch = _train_features(make, toy)
    fit = _fit(make, toy, [batch])
    reads = replace(reads, perturbations=tuple(fit[0].perturbations(fit[1])))
    known, unknown = toy(toy.id_test(), reads), toy(toy.ood_test(), reads)
    _check_scores(*fit, known)
    _check_scores(*fit, unknown)
    _check_fit(make, toy, batch, fit, known)
    _check_refusals(make, toy, batch, known)
    _check_saved(*fit, known)
    _check_neighbours(make, toy)
    if queued:
        _check_queued(make, toy, batch, fit, known)
    _check_extremes(make, toy)
    if separates:
        separation = auroc(_score(*fit, known), _score(*fit, unknown))
        _require(separation >= 0.9, fit[0], f"known images score above weak noise (AUROC {separation:.3f})")
    if permutable:
        order = torch.randperm(batch.pooled.shape[1], generator=torch.Generator().manual_seed(0))
        other = _fit(make, toy, [permuted(batch, order)], order)
        _same(_score(*other, permuted(known, order)), _score(*fit, known), fit[0], "the order of units is arbitrary")


def _check_fit(make: Make, toy: Toy, batch: Features, fit: Fit, known: Features) -> None:
    """Batches, processes and a reset leave no trace."""
    detector, expected = fit[0], _score(*fit, known)

    def check(other: Fit, what: str) -> None:
        _same(_score(*other, known), expected, detector, what)

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
        _refuses(lambda: again.compute(), again, "compute refuses an empty fit, after a reset too")
    again.update(batch)
    check((again, again.compute()), "reset forgets")


def _check_neighbours(make: Make, toy: Toy) -> None:
    """In one suite with a twin and with every other detector, each fits and scores as it does alone."""
    alone = _in_suite({"it": make()}, toy)["it"]
    expected = {"it": alone, "twin": alone, **_alone(toy.attention)}
    for suite in ({"it": make(), "twin": make(), **_others()}, {**_others(), "twin": make(), "it": make()}):
        for name, scores in _in_suite(suite, toy).items():
            _same(scores, expected[name], suite["it"], f"{name} scores beside others as it does alone")


def _in_suite(detectors: dict[str, Detector], toy: Toy) -> dict[str, Tensor]:
    suite = DetectorSuite(detectors)
    suite.setup(toy.info(toy.train().labels))
    train = toy(toy.train(), suite.reads("fit"))
    for piece in (slice(0, 150), slice(150, None)):
        suite.update(train.select(piece))
    for error in suite.compute().values():
        raise error
    scores = suite.score(toy(toy.id_test(), suite.reads("test")))
    return dict(zip(detectors, scores.unbind(dim=1), strict=True))


def _others() -> dict[str, Detector]:
    return {name: kind() for name, kind in list_detectors().items()}


@cache
def _alone(attention: bool) -> dict[str, Tensor]:
    toy = Toy(attention=attention)
    return {name: _in_suite({name: detector}, toy)[name] for name, detector in _others().items()}


def _check_scores(detector: Detector, fitted: dict[str, Tensor], features: Features) -> None:
    """One finite number an image, of that image alone, and nothing is changed on the way."""
    before = {**fitted, **_tensors(features)}
    copies = {key: value.clone() for key, value in before.items()}
    scores = _score(detector, fitted, features)
    for key, value in copies.items():
        _require(torch.equal(before[key], value), detector, f"score leaves {key} as it is")
    order = torch.arange(len(features)).flip(0)
    _same(_score(detector, fitted, features.select(order)), scores[order], detector, "the order of images is arbitrary")
    pieces = [features.select(slice(a, b)) for a, b in ((0, 1), (1, 20), (20, None))]
    split = torch.cat([_score(detector, fitted, piece) for piece in pieces])
    _same(split, scores, detector, "an image's score does not depend on its batch")


def _check_refusals(make: Make, toy: Toy, batch: Features, known: Features) -> None:
    """What cannot work is an InputError."""
    detector = _new(make, toy)
    if detector.requires_fit:
        _refuses(lambda: detector.score(known, {}), detector, "score refuses to go before the fit")
        _refuses(lambda: detector.compute(), detector, "compute refuses an empty fit")
    else:
        _require(detector.compute() == {}, detector, "what fits nothing computes {}")
    reads, whole = detector.reads, toy.info()
    bare: dict[str, NetworkInfo] = {}
    if reads.taps:
        bare["maps"] = replace(whole, maps={}, blocks=())
    if reads.head:
        bare["a linear classifier"] = replace(whole, head=None)
    for what, info in bare.items():
        _refuses(lambda info=info: make().setup(info), detector, f"setup refuses a network without {what}")  # type: ignore[misc]


def _check_saved(detector: Detector, fitted: dict[str, Tensor], known: Features) -> None:
    """The fitted tensors survive a file."""
    for key, value in fitted.items():
        _require(isinstance(value, Tensor) and not value.isnan().any(), detector, f"{key} is a tensor without NaN")
    file = io.BytesIO()
    torch.save(fitted, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    alike = torch.equal(_score(detector, loaded, known), _score(detector, fitted, known))
    _require(alike, detector, "saved fits score alike")
    for key, said in detector.summary(fitted).items():
        _require(isinstance(said, float | int | str | dict), detector, f"summary's {key} is a plain value")


def _check_extremes(make: Make, toy: Toy) -> None:
    """A zero feature, and a network whose features are negative too."""
    signed = Toy(attention=toy.attention, signed=True)
    for net in (toy, signed):
        reads, batch = _train_features(make, net)
        fit = _fit(make, net, [batch])
        known = net(net.id_test(), replace(reads, perturbations=tuple(fit[0].perturbations(fit[1]))))
        _check_scores(*fit, known)
        zero = replace(
            known,
            pooled=known.pooled * 0,
            logits=net.head(known.pooled * 0),
            maps={tap: value * 0 for tap, value in known.maps.items()},
            gradients={tap: value * 0 for tap, value in known.gradients.items()},
        )
        _check_scores(*fit, zero)


def _check_queued(make: Make, toy: Toy, batch: Features, fit: Fit, known: Features) -> None:
    """Tensors without data stand for those of a device: what would read them back, and so wait, is an error."""
    suite = DetectorSuite({"": _new(make, toy)})
    suite.fitted = {"": fit[1]} if fit[1] else {}
    suite.to("meta")
    detector, train, test = suite.detectors[""], batch.to("meta"), known.to("meta")
    steps: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("update", lambda: detector.update(train)),
        ("score", lambda: suite.score(test)),
    )
    for name, step in steps:
        try:
            with never_waiting():
                step()
        except (RuntimeError, NotImplementedError) as error:
            _require(False, detector, f"{name} queues its work and does not wait for the device ({error})")


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


def _merged(make: Make, toy: Toy, shares: Sequence[Sequence[Features]]) -> Fit:
    first, *others = [_new(make, toy) for _ in shares]
    for detector, share in zip((first, *others), shares, strict=True):
        for batch in share:
            detector.update(batch)
    if shares[0]:
        first.compute()  # what is merged later counts all the same
    for other in others:
        first.merge_state(other)
    return first, first.compute()


def _score(detector: Detector, fitted: Mapping[str, Tensor], features: Features) -> Tensor:
    scores = detector.score(features, fitted)
    _require(tuple(scores.shape) == (len(features),), detector, f"score gives [B], not {tuple(scores.shape)}")
    _require(scores.dtype in (torch.float32, torch.float64), detector, f"scores are float32 or better: {scores.dtype}")
    _require(bool(scores.isfinite().all()), detector, "scores are finite")
    return scores


def _tensors(features: Features) -> dict[str, Tensor]:
    found = {"logits": features.logits, "pooled": features.pooled}
    found |= {f"map {tap}": value for tap, value in features.maps.items()}
    if features.head is not None:
        found |= {"the classifier's weight": features.head.weight, "the classifier's bias": features.head.bias}
    return found


def _require(holds: bool, detector: Detector, what: str) -> None:
    if not holds:
        raise AssertionError(f"{type(detector).__name__} does not keep to: {what}")


def _same(scores: Tensor, expected: Tensor, detector: Detector, what: str) -> None:
    """To the last digits: other kernels serve other batch sizes."""
    scale = float(expected.abs().max())
    error = float((scores.double() - expected.double()).abs().max())
    _require(error <= 1e-4 * scale, detector, f"{what} (scores of size {scale:.3g} differ by {error:.3g})")


def _refuses(call: Callable[[], Any], detector: Detector, what: str) -> None:
    try:
        call()
    except InputError:
        return
    raise AssertionError(f"{type(detector).__name__} does not keep to: {what}")
