import numpy as np
import pytest
import torch

from lightning_ood.detectors.weiper import WeiPer, divergence, histogram
from lightning_ood.errors import InputError
from tests.helpers.toys import fit, fitted_score, random_features


def test_histogram_and_divergence_of_one_image():
    counts = histogram(torch.tensor([[0.0, 0.4, 0.5, 0.9, 1.5, -1]]), torch.tensor([0.0, 1]), 2)
    assert counts.tolist() == [[2, 2]]
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([[0.8, 0.2]])
    expected = 0.3 * np.log(4)  # (.8 - .5) log (.8 / .5) + (.2 - .5) log (.2 / .5) = .3 log (.8 / .2)
    assert divergence(p, q, 1, 1e-9).item() == pytest.approx(expected, rel=1e-5)
    # A moving mean of two, the border repeated on the right: (.5, .2), normalised (5, 2) / 7.
    smooth = np.array([5, 2]) / 7
    expected = ((0.5 - smooth) * (np.log(0.5) - np.log(smooth))).sum()
    assert divergence(p, q, 2, 1e-9).item() == pytest.approx(expected, rel=1e-5)


def test_reference():
    train, test = random_features()
    detector = WeiPer(7, 0.8, 20, 3, 5, 2.0, 0.5, seed=3)
    fitted = fit(detector, train)
    score = detector.score(test, fitted)
    z, x = train.pooled.double().numpy(), test.pooled.double().numpy()
    w, b = train.head.weight.double().numpy(), train.head.bias.double().numpy()
    stacked = []
    for i in range(7):
        noise = torch.randn(6, 24, generator=torch.Generator().manual_seed((3 << 20) + i)).double().numpy()
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        stacked.append(w + 0.8 * np.linalg.norm(w, axis=1, keepdims=True) * noise)
    perturbed = [np.concatenate([rows @ each.T + b for each in stacked], axis=1) for rows in (z, x)]

    def kld(p, q, width, eps):
        left = (width - 1) // 2
        padded = np.pad(q, (left, width - 1 - left), mode="edge")
        q = np.convolve(padded, np.ones(width) / width, mode="valid") + eps
        p, q = (p + eps) / (p + eps).sum(), q / q.sum()
        return (p * np.log(p / q)).sum() + (q * np.log(q / p)).sum()

    for name, values, all_values in (("feature", z, x), ("logit", *perturbed)):
        low, high = fitted[f"{name}_range"].tolist()
        assert low == pytest.approx(values.min(), rel=1e-3, abs=1e-9) and high == pytest.approx(values.max(), rel=1e-3)
        p = np.histogram(values, 20, (low, high))[0] / values.size
        np.testing.assert_allclose(fitted[f"{name}_density"], p, atol=2e-3)
        assert all_values.shape[0] == len(score)
    for i in range(len(x)):
        parts = []
        for name, row, width, eps in (("feature", x[i], 3, 0.01), ("logit", perturbed[1][i], 5, 0.025)):
            low, high = fitted[f"{name}_range"].double().tolist()
            q = np.histogram(row[row < high], 20, (low, high))[0] / row.size
            parts.append(kld(fitted[f"{name}_density"].double().numpy(), q, width, eps))
        logits = perturbed[1][i].reshape(7, 6)
        msp = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).max(1).mean()
        assert score[i].item() == pytest.approx(-parts[0] - 2 * parts[1] + 0.5 * msp, rel=1e-3, abs=1e-4)


def test_noise_that_is_not_held_is_the_same(monkeypatch):
    train, test = random_features()
    expected = fitted_score(WeiPer(5), train, test)
    monkeypatch.setattr("lightning_ood.detectors.weiper._HELD", 0)
    detector = WeiPer(5)
    assert torch.equal(fitted_score(detector, train, test), expected) and detector.noise is None
    assert not torch.equal(fitted_score(WeiPer(5, seed=1), train, test), expected)


def test_refusals():
    for arguments in ({"repeats": 0}, {"bins": 1}, {"delta": -1}, {"smoothing": 101}, {"eps": 0}):
        with pytest.raises(InputError):
            WeiPer(**arguments)
