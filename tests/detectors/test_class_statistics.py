"""SHE, KL matching, fDBD, NCI: what they keep is a mean per class or one mean."""

import numpy as np
import pytest
import torch

from lightning_ood.detectors.fdbd import FDBD
from lightning_ood.detectors.kl_matching import KLMatching
from lightning_ood.detectors.nci import NCI
from lightning_ood.detectors.she import SHE
from lightning_ood.errors import InputError
from lightning_ood.features import Head
from tests.helpers.toys import HEAD, IMAGE, features, fit, fitted_score, given, random_features


def softmax(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def arrays(f):
    return f.pooled.double().numpy(), f.logits.double().numpy(), f.logits.numpy().argmax(1)


def test_she_worked_example():
    templates = torch.tensor([[1.0, 0, 2], [0, 3, 1]])
    logits = torch.tensor([[1.0, 0], [0, 1], [1, 0]])  # the third is classified wrongly and counts nowhere
    train = given(logits, torch.cat([templates, torch.full((1, 3), 9.0)]), torch.tensor([0, 1, 1]))
    assert fitted_score(SHE(), train, features(IMAGE)).item() == pytest.approx(4.0)


def test_she_reference():
    train, test = random_features()
    z, _, predicted = arrays(train)
    y = train.labels.numpy()
    assert 0 < (predicted != y).sum() < len(y)
    templates = np.stack([z[(y == k) & (predicted == k)].mean(0) for k in range(6)])
    x, _, classes = arrays(test)
    np.testing.assert_allclose(fitted_score(SHE(), train, test), (x * templates[classes]).sum(1), rtol=1e-5)


def test_she_class_without_template_is_not_predicted():
    train, test = random_features()
    kept = train.select(train.labels != 2)
    masked = test.logits.clone()
    masked[:, 2] = -torch.inf
    fitted = fit(SHE(), kept)
    assert (test.prediction == 2).any()
    expected = (test.pooled * fitted["templates"][masked.argmax(1)]).sum(1)
    torch.testing.assert_close(SHE().score(test, fitted), expected)
    with pytest.raises(InputError, match="correctly classified"):
        fit(SHE(), given(torch.tensor([[1.0, 0]]), labels=torch.tensor([1])))


def test_kl_matching_worked_example():
    typical = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    fitted = fit(KLMatching(), given(typical.log()))
    score = KLMatching().score(given(torch.tensor([[0.6, 0.3, 0.1]]).log()), fitted)
    assert score.item() == pytest.approx(-0.156974, abs=1e-6)


def test_kl_matching_reference():
    train, test = random_features()
    _, logits, predicted = arrays(train)
    typical = np.stack([softmax(logits)[predicted == k].mean(0) for k in range(6)])
    p = softmax(test.logits.double().numpy())
    divergence = (p[:, None] * (np.log(p)[:, None] - np.log(typical))).sum(2)
    np.testing.assert_allclose(fitted_score(KLMatching(), train, test), -divergence.min(1), rtol=1e-5)


def test_kl_matching_class_never_predicted_takes_no_part():
    sure = given(torch.tensor([[200.0, 0, 0], [0, 200, 0]]))  # class 2 never; the others underflow to zero
    fitted = fit(KLMatching(), sure)
    scores = KLMatching().score(given(torch.tensor([[0.0, 0, 200], [200, 0, 0], [0, 0, 0]])), fitted)
    assert scores.isfinite().all()
    assert scores[1].item() == pytest.approx(0, abs=1e-6)
    assert scores[0] < scores[2] < scores[1]


def test_one_class():
    train = features(torch.rand(4, 3), Head(torch.ones(1, 3), torch.zeros(1)), torch.zeros(4, dtype=torch.int64))
    for detector in (SHE(), KLMatching(), FDBD(), NCI()):
        scores = fitted_score(detector, train, train.select(slice(0, 1)))
        assert scores.shape == (1,)
        assert scores.isfinite().all()


def test_fdbd_worked_example():
    head = Head(torch.tensor([[1.0, 0], [0, 1], [-1, 0]]), torch.zeros(3))
    train, test = features(torch.tensor([[0.0, 2], [0, 0]]), head), features(torch.tensor([[2.0, 1]]), head)
    assert fitted_score(FDBD(mean_over_classes=False), train, test).item() == pytest.approx(1.353553, abs=1e-6)
    assert fitted_score(FDBD(), train, test).item() == pytest.approx(0.676777, abs=1e-6)


def test_fdbd_reference():
    train, test = random_features()
    x, logits, predicted = arrays(test)
    w = train.head.weight.double().numpy()
    expected = []
    for z, f, y in zip(x, logits, predicted, strict=True):
        terms = [abs(f[c] - f[y]) / np.linalg.norm(w[c] - w[y]) for c in range(6) if c != y]
        expected.append(np.mean(terms) / np.linalg.norm(z - arrays(train)[0].mean(0)))
    np.testing.assert_allclose(fitted_score(FDBD(), train, test), expected, rtol=1e-5)


def test_fdbd_without_a_boundary_or_a_distance():
    twins = Head(torch.tensor([[1.0, 0], [1, 0], [0, 1]]), torch.tensor([0.0, 1, 0]))
    train = features(torch.tensor([[1.0, 1], [3, 1]]), twins)
    scores = fitted_score(FDBD(), train, features(torch.tensor([[2.0, 1], [0, 0]]), twins))  # the mean itself; zero
    assert scores.isfinite().all()


def test_nci_worked_example():
    # mean (1, 0, .5); z - mean = (2, 1, 0) of length sqrt 5; w_0 = (1, 0, -1): 2 / sqrt 5, plus alpha * 4.5.
    train = features(torch.tensor([[2.0, 0, 1], [0, 0, 0]]))
    for alpha in (0.0, 0.01):
        score = fitted_score(NCI(alpha), train, features(IMAGE)).item()
        assert score == pytest.approx(2 / np.sqrt(5) + 4.5 * alpha, rel=1e-6)


def test_nci_reference():
    train, test = random_features()
    x, _, predicted = arrays(test)
    centred = x - arrays(train)[0].mean(0)
    w = train.head.weight.double().numpy()[predicted]
    expected = (w * centred).sum(1) / np.linalg.norm(centred, axis=1) + 0.01 * np.abs(x).sum(1)
    np.testing.assert_allclose(fitted_score(NCI(0.01), train, test), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("detector", [FDBD(), NCI()])
def test_zero_feature_and_mean_itself(detector):
    train = features(torch.tensor([[1.0, 2, 3], [1, 2, 3]]), HEAD)
    test = features(torch.tensor([[0.0, 0, 0], [1, 2, 3]]), HEAD)
    assert fitted_score(detector, train, test).isfinite().all()
