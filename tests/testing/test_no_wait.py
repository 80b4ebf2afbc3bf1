"""Nothing in a step of a pass waits for the device: tensors without data stand for those of one."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from lightning_ood.data.datamodule import OODDataModule
from lightning_ood.data.sets import Batch
from lightning_ood.data.specs import IDSets
from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.combine.fusion import Fusion
from lightning_ood.detectors.combine.search import Search
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.feature_norm import FeatureNorm
from lightning_ood.detectors.knn import KNN
from lightning_ood.detectors.line import LINe
from lightning_ood.detectors.nac import NAC, NACLayer
from lightning_ood.detectors.nap import NAP
from lightning_ood.detectors.odin import ODIN
from lightning_ood.detectors.react import ReAct
from lightning_ood.engine.module import OODModule
from lightning_ood.engine.scoring import ScoringCallback
from lightning_ood.ops.transfer import beside
from lightning_ood.testing.no_wait import never_waiting
from lightning_ood.views import Blur, Crop, Invert, Jigsaw, Noise, PhaseScramble, Raw, Rotate, View
from tests.helpers.tiny import Images, Net

META = torch.device("meta")


def test_what_waits_is_refused() -> None:
    there, here = torch.ones(3, device=META), torch.ones(3)
    for wait in (
        lambda: there.sum().item(),
        lambda: there[there > 0],
        lambda: there.cpu(),
        lambda: here.to(META),
        lambda: there * here,
        lambda: there.new_tensor([1.0, 2.0]),
        lambda: torch.tensor(1.0, device=META),
    ):
        with pytest.raises((RuntimeError, NotImplementedError)), never_waiting():
            wait()
    with never_waiting():
        assert (beside(here, there) * there + torch.tensor(2.0)).is_meta


VIEWS = [Jigsaw(), Raw((0.5,) * 3, (0.2,) * 3, Jigsaw()), Rotate(), Blur(), Noise(), Invert(), PhaseScramble(), Crop()]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: type(view).__name__)
def test_views(view: View) -> None:
    with never_waiting():
        assert view(torch.ones(4, 3, 12, 12, device=META), torch.arange(4)).is_meta


def test_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the batch that Lightning moves to the sums and scores, for all that reads maps, gradients, views, steps."""
    detectors: dict[str, Detector | None] = {
        "energy": Energy(),
        "react": ReAct(),
        "line": LINe(clip_percentile=90),
        "nap": NAP(KNN(5)),
        "nac": NAC({"pooled": NACLayer(), "block1": NACLayer(alpha=1.0)}, images=20),
        "feature_norm": FeatureNorm(raw=True),
        "odin": ODIN(epsilon=0.01),
        "fusion": Fusion({"energy": Energy(), "knn": KNN(5)}),
        "search": Search(),
    }
    module, scoring = OODModule(network=Net(), weights="none"), ScoringCallback(detectors)
    labels = torch.arange(64) % 4
    pixels = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    batch = Batch(pixels, labels, torch.arange(64), torch.empty(0, dtype=torch.int64))
    trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.VALIDATING))
    suite = scoring.suite
    suite.setup(module.backbone.info(labels))
    module.backbone.configure(suite.reads("fit"))
    with torch.inference_mode():
        scoring.on_validation_batch_end(trainer, module, module.features(batch), batch, 0)  # type: ignore[arg-type]
        assert scoring.finish_fit("cpu", 64) == (64, {})
    fitted, reads = suite.fitted, suite.reads("test")

    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it knows no device without data
    module.to(META)
    data = OODDataModule(IDSets(Images(), Images(), name="tints"))
    there = data.transfer_batch_to_device(batch, META, 0)
    assert there.image.is_meta and there.label.is_meta and there.index is batch.index
    suite.fitted = {}
    module.backbone.configure(suite.reads("fit"))
    scoring.on_validation_start(trainer, module)  # type: ignore[arg-type]
    with torch.inference_mode(), never_waiting():
        scoring.on_validation_batch_end(trainer, module, module.features(there), there, 0)  # type: ignore[arg-type]

    suite.fitted = fitted
    suite.to(META)
    module.backbone.configure(reads)
    with torch.inference_mode(), never_waiting():
        scoring.on_test_batch_end(trainer, module, module.features(there), there, 0)  # type: ignore[arg-type]
    assert scoring._rows[0].shape == (64, 4) and scoring._scores[0].shape == (64, 9)
