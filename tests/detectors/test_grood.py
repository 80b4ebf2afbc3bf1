from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lightning_ood.detectors.grood import GROOD, gradients
from lightning_ood.errors import InputError
from lightning_ood.testing import check_detector
from lightning_ood.views import Noise
from tests.helpers.toys import fit, fitted_score, given, random_features


def test_worked_example():
    # Class means (4, 0) and (-4, 0), OOD prototype (0, 0). The image (0, 3): distances 5, 5 and 3.
    logits = torch.tensor([[1.0, 0], [0, 1]])
    train = given(logits, torch.tensor([[4.0, 0], [-4, 0]]), torch.tensor([0, 1]))
    fitted = fit(GROOD(), train)
    q = 1 / (1 + 2 * np.exp(-2))
    gradient = gradients(torch.tensor([[0.0, 3]]), fitted)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, q]]).float())
    # Those of the training images: distances 0, 8, 4, so (+-w, 0) with w = e^-4 / (1 + e^-8 + e^-4).
    w = np.exp(-4) / (1 + np.exp(-8) + np.exp(-4))
    query = given(torch.zeros(1, 2), torch.tensor([[0.0, 3]]))
    assert GROOD().score(query, fitted).item() == pytest.approx(-np.hypot(w, q), rel=1e-5)


def test_gradients_agree_with_autograd():
    train, test = random_features()
    fitted = fit(GROOD(), train)
    for target in (0, 5):  # the class that the cross-entropy is of does not matter
        ood = fitted["ood"].double().requires_grad_()
        prototypes = torch.cat([fitted["prototypes"].double(), ood[None]])
        logits = -(test.pooled.double()[:, None] - prototypes).norm(dim=2)
        for i in range(5):
            loss = F.cross_entropy(logits[i : i + 1], torch.tensor([target]))
            expected = torch.autograd.grad(loss, ood, retain_graph=True)[0]
            torch.testing.assert_close(
                gradients(test.pooled[i : i + 1], fitted)[0].double(), expected, rtol=1e-4, atol=1e-6
            )


@pytest.mark.parametrize("k", [1, 5])
def test_reference(k):
    train, test = random_features()
    z, y, x = train.pooled.double().numpy(), train.labels.numpy(), test.pooled.double().numpy()
    means = np.stack([z[y == c].mean(0) for c in range(6)])
    prototypes = np.concatenate([means, means.mean(0)[None]])

    def gradient(rows):
        distance = np.linalg.norm(rows[:, None] - prototypes, axis=2)
        q = np.exp(-distance[:, -1]) / np.exp(-distance).sum(1)
        return (q / distance[:, -1])[:, None] * (rows - prototypes[-1])

    bank = gradient(z[train.prediction.numpy() == y])
    distances = np.sort(np.linalg.norm(gradient(x)[:, None] - bank, axis=2), 1)[:, k - 1]
    np.testing.assert_allclose(fitted_score(GROOD(k), train, test), -distances, rtol=1e-3)


def test_prototype_of_a_transform():
    train, test = random_features()
    view = Noise(1.0)
    other = replace(train, pooled=train.pooled * 0 + 0.5)
    fitted = fit(GROOD(pseudo_ood=view), replace(train, views={view: other}))
    torch.testing.assert_close(fitted["ood"], torch.full((24,), 0.5))
    assert GROOD(pseudo_ood=view).score(test, fitted).isfinite().all()


def test_refusals():
    wrong = given(torch.tensor([[1.0, 0]]), labels=torch.tensor([1]))
    with pytest.raises(InputError, match="correctly classified training images, and there is none"):
        fit(GROOD(), wrong)
    for k in (0, 2):
        with pytest.raises(InputError, match="k="):
            fit(GROOD(k), given(torch.tensor([[1.0, 0]]), labels=torch.tensor([0])))


def test_contract():
    check_detector(lambda: GROOD(3, Noise(1.0)), separates=False)
