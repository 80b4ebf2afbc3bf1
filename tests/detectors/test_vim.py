import numpy as np
import pytest
import torch

from lightning_ood.detectors.residual import Residual, default_dim
from lightning_ood.detectors.vim import ViM
from lightning_ood.errors import InputError
from lightning_ood.features import Head
from tests.helpers.toys import HEAD, features, fit, fitted_score, random_features


def reference(train, test, dim):
    w, b = train.head.weight.double().numpy(), train.head.bias.double().numpy()
    u = -np.linalg.pinv(w) @ b
    x = train.pooled.double().numpy() - u
    _, vectors = np.linalg.eigh(x.T @ x / len(x))
    r = vectors[:, : x.shape[1] - dim]
    alpha = train.logits.double().numpy().max(1).mean() / np.linalg.norm(x @ r, axis=1).mean()
    norm = np.linalg.norm((test.pooled.double().numpy() - u) @ r, axis=1)
    return alpha, norm, np.log(np.exp(test.logits.double().numpy()).sum(1)) - alpha * norm


def test_worked_example():
    head = Head(torch.tensor([[1.0, 0, 0], [0, 1, 0]]), torch.tensor([1.0, -1]))
    train = features(torch.tensor([[2.0, 0, 1], [0, 2, -1], [1, 1, 1], [3, 1, -1], [1, 3, 0]]), head)
    fitted = fit(ViM(dim=2), train)
    torch.testing.assert_close(fitted["origin"], torch.tensor([-1.0, 1, 0]))
    assert fitted["alpha"].item() == pytest.approx(3.631431, abs=1e-6)
    score = ViM(dim=2).score(features(torch.tensor([[1.0, 1, 3]]), head), fitted)
    assert score.item() == pytest.approx(-6.810785, abs=1e-5)


@pytest.mark.parametrize("dim", [None, 0, 5, 23])
def test_reference(dim):
    train, test = random_features()
    alpha, norm, score = reference(train, test, 12 if dim is None else dim)
    np.testing.assert_allclose(fitted_score(Residual(dim), train, test), -norm, rtol=1e-5)
    assert fit(ViM(dim), train)["alpha"].item() == pytest.approx(alpha, rel=1e-5)
    np.testing.assert_allclose(fitted_score(ViM(dim), train, test), score, rtol=1e-5, atol=1e-5)


def test_classifier_with_zero_sum_rows():
    # W has rank K - 1 up to rounding, as weight decay makes it: u is that of the exact rank.
    train, _ = random_features()
    weight = train.head.weight - train.head.weight.mean(0)
    head = Head(weight, train.head.bias - train.head.bias.mean())
    u = -np.linalg.pinv(weight.double().numpy(), rcond=1e-5) @ head.bias.double().numpy()
    fitted = fit(ViM(), features(train.pooled, head))
    np.testing.assert_allclose(fitted["origin"], u, rtol=1e-4, atol=1e-5)


def test_alpha_of_a_sample_is_near_that_of_all():
    train, _ = random_features(4000)
    full, sampled = (fit(ViM(rows=rows), train)["alpha"].item() for rows in (4000, 1000))
    assert full != sampled
    assert sampled == pytest.approx(full, rel=0.03)


def test_default_dim_follows_the_authors_rule():
    assert [default_dim(width) for width in (2048, 1024, 768, 512, 342, 16)] == [1000, 512, 512, 256, 171, 8]


@pytest.mark.parametrize("dim", [3, 1000, -1])
@pytest.mark.parametrize("detector", [ViM, Residual])
def test_dim_without_residual_space_is_refused(detector, dim):
    says = "dim=-1 .* at least 0" if dim < 0 else r"write a dim from 0 to 2, or null .* \(here 1\)"
    with pytest.raises(InputError, match=says):
        fit(detector(dim), features(torch.rand(5, 3)))


def test_training_features_without_residual():
    # All training images in a plane through the origin of the head: nothing is left outside two dimensions.
    head = Head(HEAD.weight, torch.zeros(2))
    train = features(torch.rand(9, 2) @ torch.tensor([[1.0, 0, 1], [0, 1, 1]]), head)
    scores = fitted_score(ViM(dim=2), train, features(torch.randn(6, 3), head))
    assert scores.isfinite().all()
