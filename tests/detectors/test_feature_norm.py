import pytest
import torch
from torch import Tensor

from lightning_ood.detectors.feature_norm import FeatureNorm, feature_norm
from lightning_ood.errors import InputError
from lightning_ood.features import Features, NetworkInfo
from lightning_ood.views import Jigsaw, Raw

SETUP = NetworkInfo(3, 2, maps={name: torch.Size((1, 1, 1)) for name in ("a", "b", "stem")}, blocks=("a", "b"))


def batch(maps: dict[str, Tensor], jigsaw: dict[str, Tensor], view: Jigsaw) -> Features:
    size = len(next(iter(maps.values())))
    logits, pooled = torch.zeros(size, 2), torch.zeros(size, 3)
    return Features(logits, pooled, maps=maps, views={view: Features(logits, pooled, maps=jigsaw)})


def norms(*values: float) -> Tensor:
    """Maps of one channel and one position: their norm is their value."""
    return torch.tensor(values)[:, None, None, None]


def test_values() -> None:
    activation = torch.tensor([[[3.0, -4], [0, 4]], [[1, 1], [1, 1]], [[-1, -1], [-2, -3]]])[None]
    assert feature_norm(activation).item() == pytest.approx(2.333333, abs=1e-6)
    assert feature_norm(activation.flatten(2)).item() == pytest.approx(2.333333, abs=1e-6)


def test_invariants() -> None:
    draw = torch.Generator().manual_seed(0)
    activation = torch.randn(4, 6, 9, 9, generator=draw)
    score = feature_norm(activation)
    torch.testing.assert_close(feature_norm(2 * activation), 2 * score)
    torch.testing.assert_close(feature_norm(activation[:, torch.randperm(6, generator=draw)]), score)
    torch.testing.assert_close(feature_norm(Jigsaw(3)(activation, torch.arange(4))), score)
    assert feature_norm(activation * 0).tolist() == [0.0] * 4


def test_agrees_with_the_formula() -> None:
    activation = torch.randn(5, 7, 4, 3, generator=torch.Generator().manual_seed(1))
    expected = activation.double().relu().square().sum((2, 3)).sqrt().mean(1)
    torch.testing.assert_close(feature_norm(activation).double(), expected, rtol=1e-6, atol=1e-7)


def test_ratio_is_a_mean_of_ratios() -> None:
    detector = FeatureNorm()
    detector.setup(SETUP)
    assert detector.taps == ("a", "b") and detector.views == (Jigsaw(3),)
    ids, jigsaws = norms(4, 2, 1), norms(2, 4, 0.5)
    detector.update(batch({"a": ids * 0 + 1, "b": ids}, {"a": ids * 0 + 1, "b": jigsaws}, detector.jigsaw))
    fitted = detector.compute()
    assert fitted["ratios"].tolist() == [1.0, 1.5]
    assert detector.summary(fitted) == {"block": "b", "ratio.a": 1.0, "ratio.b": 1.5}
    test = Features(torch.zeros(2, 2), torch.zeros(2, 3), maps={"a": norms(7, 8), "b": norms(3, 5)})
    assert detector.score(test, fitted).tolist() == [3.0, 5.0]


def test_jigsaws_of_norm_zero_are_not_counted() -> None:
    detector = FeatureNorm(blocks=["b", "stem"])
    detector.setup(SETUP)
    ids, dead = norms(4, 2, 1), norms(0, 0, 0)
    detector.update(batch({"b": ids, "stem": dead}, {"b": norms(2, 0, 1), "stem": dead}, detector.jigsaw))
    fitted = detector.compute()
    assert fitted["ratios"].tolist() == [1.5, 0.0] and fitted["block"].item() == 0


def test_one_block_fits_nothing() -> None:
    detector = FeatureNorm(block="stem")
    detector.setup(SETUP)
    assert not detector.requires_fit and detector.taps == ("stem",) and detector.views == ()
    assert detector.summary({}) == {"block": "stem"}


def test_one_candidate_survives_being_squeezed() -> None:
    detector = FeatureNorm(blocks=["b"])
    detector.setup(SETUP)
    detector.update(batch({"b": norms(3)}, {"b": norms(2)}, detector.jigsaw))
    fitted = detector.compute()
    assert detector.summary(fitted) == {"block": "b", "ratio.b": 1.5}


def test_refusals() -> None:
    with pytest.raises(InputError, match="not both"):
        FeatureNorm(blocks=["a"], block="b")
    with pytest.raises(InputError, match=r"'stam'.*stem"):
        FeatureNorm(blocks=["stam"]).setup(SETUP)
    with pytest.raises(InputError, match="no blocks"):
        FeatureNorm().setup(NetworkInfo(3, 2))


def test_ratio_on_raw_inputs() -> None:
    """As the authors take it: image and jigsaw both without normalisation; the score stays with the normal input."""
    detector = FeatureNorm(blocks=["b"], border=True, raw=True)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
    detector.setup(NetworkInfo(3, 2, maps=SETUP.maps, blocks=SETUP.blocks, mean=mean, std=std))
    whole, shuffled = Raw(mean, std), Raw(mean, std, Jigsaw(3, border=True))
    assert detector.views == (whole, shuffled) and detector.extra_forwards == {"fit": 2, "test": 0}
    logits, pooled = torch.zeros(3, 2), torch.zeros(3, 3)

    def of(*values: float) -> Features:
        return Features(logits, pooled, maps={"b": norms(*values)})

    views = {whole: of(4, 2, 1), shuffled: of(2, 4, 0.5)}
    detector.update(Features(logits, pooled, maps={"b": norms(9, 9, 9)}, views=views))
    assert detector.compute()["ratios"].reshape(-1).tolist() == [1.5]
    assert FeatureNorm(block="b", raw=True).extra_forwards == {"fit": 0, "test": 0}
