import numpy as np
import pytest
import torch

from lightning_ood.detectors.knn import KNN
from lightning_ood.detectors.nnguide import NNGuide
from lightning_ood.errors import InputError
from tests.helpers.toys import features, fit, fitted_score, given, random_features

BANK = torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8]])
QUERY = torch.tensor([[3.0, 4]])


def unit(x):
    x = x.double().numpy()
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def energy(f):
    return np.log(np.exp(f.logits.double().numpy()).sum(1))


def with_energy(pooled, values):
    """Two equal logits with the given logsumexp."""
    return given((torch.tensor(values) - np.log(2))[:, None].repeat(1, 2).float(), pooled)


def test_worked_example_knn():
    train, query = features(BANK, _head()), features(QUERY, _head())
    assert fitted_score(KNN(k=1), train, query).item() == pytest.approx(0, abs=1e-6)
    assert fitted_score(KNN(k=2), train, query).item() == pytest.approx(-0.632456, abs=1e-6)
    assert fitted_score(KNN(k=3), train, query).item() == pytest.approx(-np.sqrt(0.8), abs=1e-6)


def test_worked_example_nnguide():
    train, query = with_energy(BANK, [2.0, 1, 3]), with_energy(QUERY, [5.0])
    assert fitted_score(NNGuide(k=2), train, query).item() == pytest.approx(10.5, rel=1e-6)


@pytest.mark.parametrize("k", [1, 7, 300])
def test_reference(k):
    train, test = random_features()
    distance = np.sort(np.linalg.norm(unit(test.pooled)[:, None] - unit(train.pooled), axis=2), 1)[:, k - 1]
    np.testing.assert_allclose(fitted_score(KNN(k), train, test), -distance, rtol=1e-5)
    guides = unit(test.pooled) @ (unit(train.pooled) * energy(train)[:, None]).T
    expected = np.sort(guides, 1)[:, -k:].mean(1) * energy(test)
    np.testing.assert_allclose(fitted_score(NNGuide(k), train, test), expected, rtol=1e-5)


def test_training_image_is_its_own_nearest_neighbour():
    train, _ = random_features()
    assert fitted_score(KNN(k=1), train, train).abs().max() == 0


def test_log_score_orders_as_the_score_does():
    train, test = random_features()
    detector = KNN(k=5)
    fitted = fit(detector, train)
    score, log_score = detector.score(test, fitted), detector.log_score(test, fitted)
    assert torch.equal(score.argsort(), log_score.argsort())
    torch.testing.assert_close(log_score, torch.log(1 / (1e-6 - score)))


def test_bank_is_bounded_and_does_not_depend_on_batches():
    train, _ = random_features()
    banks = [fit(KNN(k=5, bank_size=64), train, batch)["bank"] for batch in (300, 11)]
    assert banks[0].shape == (64, 24)
    torch.testing.assert_close(banks[0], banks[1], rtol=0, atol=0)
    other = fit(KNN(k=5, bank_size=64, seed=1), train)["bank"]
    assert not torch.equal(banks[0], other)


@pytest.mark.parametrize("k", [0, 301])
@pytest.mark.parametrize("detector", [KNN, NNGuide])
def test_k_that_the_bank_cannot_serve_is_refused(detector, k):
    train, test = random_features()
    says = "k=0 .* at least 1" if k == 0 else r"k=301 .* bank of 300 .* k from 1 to 300"
    with pytest.raises(InputError, match=says):
        fit(detector(k), train)
    with pytest.raises(InputError, match="at least 1" if k == 0 else "larger bank"):
        detector(k).score(test, fit(detector(k=1), train))


def test_zero_features_have_no_direction():
    train, test = random_features()
    blank = features(torch.zeros(1, 24), train.head)
    dark = features(torch.cat([train.pooled, torch.zeros(3, 24)]), train.head)
    assert len(fit(KNN(), dark)["bank"]) == 300
    torch.testing.assert_close(fitted_score(KNN(), dark, test), fitted_score(KNN(), train, test))
    assert fitted_score(KNN(), train, blank).item() == pytest.approx(-1, rel=1e-6)
    assert fitted_score(NNGuide(), train, blank).item() == 0


def _head():
    return random_features(width=2, classes=2)[0].head
