import numpy as np
import pytest
import torch

from lightning_ood.detectors.relation import Relation
from lightning_ood.errors import InputError
from lightning_ood.testing import check_detector
from tests.helpers.toys import fitted_score, given, random_features


def test_worked_example():
    # Softmax of the query (.8, .2), cosines 1, .6, -1 and 0 with training images of softmax (.5, .5) and (.9, .1).
    half, sure = [0.5, 0.5], [0.9, 0.1]
    train = given(torch.tensor([half, sure, sure, half]).log(), torch.tensor([[2.0, 0], [3, 4], [-1, 0], [0, 1]]))
    query = given(torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[5.0, 0]]))
    relations = np.array([1 * 0.5, 0.6 * (0.72 + 0.02), 0, 0])
    assert fitted_score(Relation(), train, query).item() == pytest.approx(relations.mean(), rel=1e-6)
    assert fitted_score(Relation(2.0), train, query).item() == pytest.approx((relations**2).mean(), rel=1e-6)
    assert fitted_score(Relation(threshold=0.45), train, query).item() == pytest.approx(0.5 / 4, rel=1e-6)


@pytest.mark.parametrize("power", [1, 4])
def test_reference(power):
    train, test = random_features()
    z, x = (f.pooled.double().numpy() for f in (train, test))
    p, q = (f.logits.double().softmax(1).numpy() for f in (train, test))
    z, x = z / np.linalg.norm(z, axis=1)[:, None], x / np.linalg.norm(x, axis=1)[:, None]
    r = (x @ z.T).clip(0) * (q @ p.T)
    expected = (np.where(r > 0.03, r, 0) ** power).mean(1)
    np.testing.assert_allclose(fitted_score(Relation(power), train, test), expected, rtol=1e-4, atol=1e-4)


def test_bank_is_a_sample():
    train, test = random_features(2000)
    few, all_ = (fitted_score(Relation(bank_size=size), train, test) for size in (1000, 2000))
    assert not few.equal(all_) and np.corrcoef(few, all_)[0, 1] > 0.99


@pytest.mark.parametrize("arguments", [{"power": 0}, {"threshold": 1.0}, {"bank_size": 0}])
def test_out_of_range(arguments):
    with pytest.raises(InputError, match=r"power=0 is not|threshold=1.0 is not|bank_size=0 is too small"):
        Relation(**arguments)


def test_contract():
    check_detector(lambda: Relation(4, 0, 100))
