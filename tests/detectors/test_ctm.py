import numpy as np
import pytest
import torch

from lightning_ood.detectors.ctm import CTM
from lightning_ood.errors import InputError
from lightning_ood.testing import check_detector
from tests.helpers.toys import fitted_score, given, random_features


def test_worked_example():
    # Means (3, 0) and (0, 2); the query (3, 4) has cosines .6 and .8, and class 0 is predicted.
    train = given(torch.zeros(4, 2), torch.tensor([[2.0, 1], [4, -1], [1, 2], [-1, 2]]), torch.tensor([0, 0, 1, 1]))
    query = given(torch.tensor([[1.0, 0]]), torch.tensor([[3.0, 4]]))
    assert fitted_score(CTM(), train, query).item() == pytest.approx(0.8)
    assert fitted_score(CTM("predicted"), train, query).item() == pytest.approx(0.6)


def test_reference():
    train, test = random_features()
    z, y, x = train.pooled.double().numpy(), train.labels.numpy(), test.pooled.double().numpy()
    means = np.stack([z[y == k].mean(0) for k in range(6)])
    cosine = (x / np.linalg.norm(x, axis=1)[:, None]) @ (means / np.linalg.norm(means, axis=1)[:, None]).T
    np.testing.assert_allclose(fitted_score(CTM(), train, test), cosine.max(1), rtol=1e-5)
    expected = cosine[np.arange(len(x)), test.prediction.numpy()]
    np.testing.assert_allclose(fitted_score(CTM("predicted"), train, test), expected, rtol=1e-5)


def test_class_without_images_is_no_candidate():
    train, test = random_features()
    kept = train.select(train.labels != 2)
    means = torch.stack([kept.pooled[kept.labels == k].mean(0) for k in (0, 1, 3, 4, 5)])
    expected = torch.cosine_similarity(test.pooled[:, None], means[None], dim=2).amax(1)
    torch.testing.assert_close(fitted_score(CTM(), kept, test), expected)
    assert (test.prediction == 2).any()
    assert (fitted_score(CTM("predicted"), kept, test)[test.prediction == 2] == -1).all()


def test_refusals():
    with pytest.raises(InputError, match="write nearest or predicted"):
        CTM("label")
    with pytest.raises(InputError, match="no labels"):
        fitted_score(CTM(), given(torch.zeros(3, 2)), given(torch.zeros(3, 2)))


def test_contract():
    check_detector(lambda: CTM("predicted"))
