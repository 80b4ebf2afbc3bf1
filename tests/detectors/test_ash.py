import numpy as np
import pytest
import torch

from lightning_ood.detectors.ash import ASH
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.entropy import Entropy
from lightning_ood.detectors.gen import GEN
from lightning_ood.detectors.scale import SCALE
from lightning_ood.detectors.vra import VRA
from lightning_ood.errors import InputError
from tests.helpers.toys import HEAD, IMAGE, features, fit, fitted_score, random_features

Z = torch.tensor([[5, 1, 3, 0, 2, 4, 0.5, 0.5]])
SHAPINGS = [ASH("p"), ASH("b"), ASH("s"), SCALE(), VRA(low=0.1, high=1.0)]


def reference(pooled, head, method, p):
    """Energies of the shaped feature, image by image."""
    scores = []
    for z in pooled.double().numpy():
        k = len(z) - int(np.round(len(z) * p / 100))
        top = np.argsort(-z, kind="stable")[:k]
        pruned = np.zeros_like(z)
        pruned[top] = z[top]
        factor = np.exp(z.sum() / pruned.sum())
        if method == "b":
            pruned[top] = z.sum() / k
        shaped = {"p": pruned, "b": pruned, "s": pruned * factor, "scale": z * factor}[method]
        logits = head.weight.double().numpy() @ shaped + head.bias.double().numpy()
        scores.append(np.logaddexp.reduce(logits))
    return np.array(scores)


def test_worked_example():
    expected = {"p": [5, 0, 0, 0, 0, 4, 0, 0], "b": [8, 0, 0, 0, 0, 8, 0, 0]}
    expected["s"] = [29.583468, 0, 0, 0, 0, 23.666774, 0, 0]
    for variant, shaped in expected.items():
        torch.testing.assert_close(ASH(variant, 75).shape(Z), torch.tensor([shaped]).float())
    torch.testing.assert_close(SCALE(75).shape(Z), Z * 5.916694)


@pytest.mark.parametrize("percentile", [0, 65, 75, 90])
def test_reference(percentile):
    _, test = random_features()
    test = features(test.pooled + 0.01 * torch.rand(50, 24), test.head)  # no ties at the cut
    for variant in ("p", "b", "s"):
        expected = reference(test.pooled, test.head, variant, percentile)
        np.testing.assert_allclose(ASH(variant, percentile).score(test, {}), expected, rtol=1e-5)
    expected = reference(test.pooled, test.head, "scale", percentile)
    np.testing.assert_allclose(SCALE(percentile).score(test, {}), expected, rtol=1e-5)


def test_properties():
    _, test = random_features()
    z = test.pooled
    torch.testing.assert_close(ASH("b").shape(z).sum(1), z.sum(1))
    torch.testing.assert_close(ASH("s").shape(2 * z), 2 * ASH("s").shape(z))
    torch.testing.assert_close(ASH("p", 0).shape(z), z)
    assert (ASH("p", 65).shape(torch.rand(3, 10)) > 0).sum(1).tolist() == [4, 4, 4]  # round(6.5) = 6: half to even
    assert (ASH("p", 75).shape(torch.rand(3, 10)) > 0).sum(1).tolist() == [2, 2, 2]  # round(7.5) = 8
    assert (ASH("p", 99).shape(torch.rand(3, 10)) > 0).sum(1).tolist() == [1, 1, 1]  # never none


@pytest.mark.parametrize("detector", SHAPINGS)
def test_signed_and_zero_features_stay_finite_and_untouched(detector):
    _, rectified = random_features()
    pooled = torch.cat([torch.randn(40, 24) * 50, torch.zeros(1, 24), -torch.rand(5, 24), torch.ones(1, 24)])
    signed = features(pooled.clone(), rectified.head)
    assert detector.score(signed, {}).isfinite().all()
    assert torch.equal(signed.pooled, pooled)
    zero = features(torch.zeros(1, 24), rectified.head)
    torch.testing.assert_close(detector.score(zero, {}), Energy().score(zero, {}))


def test_exponent_is_bounded():
    flat = features(torch.ones(2, 2048), random_features(width=2048)[0].head)
    for detector in (ASH("s", 99.9), SCALE(99.9)):  # plain: exp(1024)
        assert detector.score(flat, {}).isfinite().all()


@pytest.mark.parametrize("base", [GEN(), Entropy()])
def test_base_scores_the_shaped_logits(base):
    _, test = random_features()
    shaped = test.head(ASH("p", 75).shape(test.pooled))
    torch.testing.assert_close(ASH("p", 75, base).score(test, {}), base.of_logits(shaped))
    assert not torch.equal(base.of_logits(shaped), base.of_logits(test.logits))


def test_vra_worked_example():
    # [3, 1, .5] with low 0.75, high 2: [2, 1, 0]; logits 2.5, 1.5.
    expected = np.logaddexp(2.5, 1.5)
    assert VRA(low=0.75, high=2.0).score(features(IMAGE), {}).item() == pytest.approx(expected, rel=1e-6)
    # VRA+ adds 0.25 between the thresholds only: [2, 1.25, 0]; logits 2.5, 2.
    shifted = VRA(low=0.75, high=2.0, shift=0.25)
    assert shifted.score(features(IMAGE), {}).item() == pytest.approx(np.logaddexp(2.5, 2.0), rel=1e-6)


def test_vra_reference():
    train, test = random_features()
    low, high = np.percentile(train.pooled.double().numpy(), [60, 90], axis=0)
    z = test.pooled.double().numpy()
    shaped = np.where(z < low, 0, np.where(z > high, high, z + 0.2))
    logits = shaped @ test.head.weight.double().numpy().T + test.head.bias.double().numpy()
    np.testing.assert_allclose(
        fitted_score(VRA(shift=0.2), train, test), np.logaddexp.reduce(logits, axis=1), rtol=1e-5
    )


def test_vra_extremes():
    train, _ = random_features()
    torch.testing.assert_close(fitted_score(VRA(0, 100), train, train), Energy().score(train, {}))
    assert not VRA(low=0.5, high=1.0).requires_fit
    assert fit(VRA(low=0.5), train).keys() == {"high"}


def test_bad_arguments_are_refused():
    for make in (ASH, SCALE):
        with pytest.raises(InputError, match=r"not in \[0, 100\)"):
            make(percentile=100)
    with pytest.raises(InputError, match="write p, b or s"):
        ASH("x")
    with pytest.raises(InputError, match="not in order"):
        VRA(90, 60)
    with pytest.raises(InputError, match=r"low=2\.0 is above high=1\.0"):
        VRA(low=2.0, high=1.0)


def test_head_of_the_batch_is_used():
    assert torch.allclose(ASH("p", 0).logits(features(IMAGE), {}), HEAD(IMAGE))
