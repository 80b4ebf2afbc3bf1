import numpy as np
import pytest
import torch

from lightning_ood.detectors.cadref import CADRef, CARef
from lightning_ood.detectors.entropy import Entropy
from lightning_ood.detectors.max_logit import MaxLogit
from lightning_ood.detectors.msp import MSP
from lightning_ood.detectors.odin import ODIN
from lightning_ood.errors import InputError
from lightning_ood.features import Head
from lightning_ood.testing import check_detector
from tests.helpers.toys import features, fit, fitted_score, random_features

HEAD = Head(torch.tensor([[1.0, -1, 0], [-1, 2, 1]]), torch.tensor([2.0, 0]))


def test_worked_example():
    # Logits (4, 0) and (6, -2): class 0 twice, mean (3, 1, 1); (0, 3, 1) gives (-1, 7): class 1.
    train = features(torch.tensor([[3.0, 1, 1], [5, 1, 1], [1, 1, 1], [0, 3, 1]]), HEAD)
    fitted = fit(CARef(), train)
    torch.testing.assert_close(fitted["means"], torch.tensor([[3.0, 1, 1], [0, 3, 1]]))
    # The query (6, 2, 0): logits (6, -2), class 0, z - mu = (3, 1, -1), |z|_1 = 8.
    query = features(torch.tensor([[6.0, 2, 0]]), HEAD)
    assert CARef().score(query, fitted).item() == pytest.approx(-5 / 8)
    # sign W_0 = (1, -1, 0): positive part 3, negative part 1, the unit without weight in neither.
    # Largest logits of the training images: 4, 6, 2, 7, mean 4.75.
    expected = -(3 / 8 / 6 + 1 / 8 / 4.75)
    assert fitted_score(CADRef(MaxLogit()), train, query).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("base", [None, MaxLogit(), MSP()])
def test_reference(base):
    train, test = random_features()
    z, x, w = (t.double().numpy() for t in (train.pooled, test.pooled, train.head.weight))
    predicted, y = train.prediction.numpy(), test.prediction.numpy()
    d = x - np.stack([z[predicted == k].mean(0) for k in range(6)])[y]
    length = np.abs(x).sum(1)
    np.testing.assert_allclose(fitted_score(CARef(), train, test), -np.abs(d).sum(1) / length, rtol=1e-5)
    forms = {
        type(None): lambda f: f.logsumexp(1),
        MaxLogit: lambda f: f.amax(1),
        MSP: lambda f: f.softmax(1).amax(1),
    }
    s = [np.maximum(forms[type(base)](f.logits.double()).numpy(), 1e-6) for f in (train, test)]
    signed = d * np.sign(w[y])
    positive, negative = np.maximum(signed, 0).sum(1) / length, np.maximum(-signed, 0).sum(1) / length
    expected = -(positive / s[1] + negative / s[0].mean())
    np.testing.assert_allclose(fitted_score(CADRef(base), train, test), expected, rtol=1e-4)


def test_class_that_is_never_predicted_is_left_out():
    train, test = random_features()
    kept = train.select(train.prediction != 2)
    y = test.logits.clone().index_fill(1, torch.tensor([2]), -torch.inf).argmax(1)
    means = fit(CARef(), kept)["means"]
    expected = -(test.pooled - means[y]).abs().sum(1) / test.pooled.abs().sum(1)
    assert (test.prediction == 2).any()
    torch.testing.assert_close(fitted_score(CARef(), kept, test), expected)


def test_refusals():
    with pytest.raises(InputError, match="Entropy is never positive; write Energy"):
        CADRef(Entropy())
    with pytest.raises(InputError, match="write epsilon: 0"):
        fit(CADRef(ODIN(1.0, 0.01)), random_features()[0])


def test_contract():
    check_detector(lambda: CADRef(MSP()))
