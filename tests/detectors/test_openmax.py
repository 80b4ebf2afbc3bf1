import numpy as np
import pytest
import torch
from scipy.stats import weibull_min

from lightning_ood.detectors.openmax import OpenMax
from lightning_ood.errors import InputError
from lightning_ood.testing import check_detector
from tests.helpers.toys import fit, fitted_score, given, random_features


def test_worked_example():
    # Given parameters: w = 1 - exp(-((d + shift) / scale)^shape), d = 5 from (0, 0) and 1 from (3, 3), query (3, 4).
    fitted = {
        "means": torch.tensor([[0.0, 0], [3, 3]]),
        "shape": torch.tensor([1.0, 2]),
        "scale": torch.tensor([3.0, 2]),
        "shift": torch.tensor([-2.0, 1]),
    }
    w = 1 - np.exp(-1)  # (5 - 2) / 3 = 1; (1 + 1) / 2 = 1, squared
    # Class 1 has the largest logit and weight 1, class 0 weight 1/2 with alpha = 2.
    given_away = 4 * w, 3 * w / 2
    expected = np.log(np.exp(4 - given_away[0]) + np.exp(3 - given_away[1])) - sum(given_away)
    query = given(torch.tensor([[3.0, 4]]))
    assert OpenMax(alpha=2).score(query, fitted).item() == pytest.approx(expected, rel=1e-5)


def reference(train, test, tail, alpha):
    f, y, x = train.logits.double().numpy(), train.labels.numpy(), test.logits.double().numpy()
    scores = []
    models = []
    for c in range(6):
        own = f[(y == c) & (train.prediction.numpy() == c)]
        mean = own.mean(0)
        d = np.sort(np.linalg.norm(own - mean, axis=1))[-tail:]
        shape, _, scale = weibull_min.fit(d + 1 - d[0], floc=0)
        models.append((mean, lambda v, low=d[0], s=shape, k=scale: weibull_min.cdf(v + 1 - low, s, scale=k)))
    for row in x:
        revised, unknown = row.copy(), 0.0
        for i, c in enumerate(np.argsort(-row)[:alpha]):
            mean, cdf = models[c]
            part = row[c] * cdf(np.linalg.norm(row - mean)) * (alpha - i) / alpha
            revised[c] -= part
            unknown += part
        scores.append(np.log(np.exp(revised).sum()) - unknown)
    return np.array(scores)


@pytest.mark.parametrize(("tail", "alpha"), [(20, 3), (10, 1), (5, 6)])
def test_reference(tail, alpha):
    train, test = random_features()
    expected = reference(train, test, tail, alpha)
    np.testing.assert_allclose(fitted_score(OpenMax(tail, alpha), train, test), expected, rtol=1e-3, atol=1e-3)


def test_class_with_one_distance_gives_nothing_away():
    train = given(torch.tensor([[3.0, 0], [3, 0], [0, 2], [0, 3]]), labels=torch.tensor([0, 0, 1, 1]))
    fitted = fit(OpenMax(), train)
    assert fitted["shape"].tolist() == [0, 0]
    query = given(torch.tensor([[5.0, 1]]))
    assert OpenMax().score(query, fitted).item() == pytest.approx(np.log(np.exp(5) + np.exp(1)), rel=1e-6)


def test_refusals():
    for arguments in ({"tail": 1}, {"alpha": 0}, {"rows": 0}):
        with pytest.raises(InputError, match="is too small or no number"):
            OpenMax(**arguments)
    with pytest.raises(InputError, match="correctly classified training images, and there is none"):
        fit(OpenMax(), given(torch.tensor([[1.0, 0]]), labels=torch.tensor([1])))


def test_contract():
    check_detector(lambda: OpenMax(10, 2, 300), separates=False)
