"""The scoring callback by itself: what it refuses, and in which order it hands the scores on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lightning_ood.data.sets import Batch
from lightning_ood.detectors import KNN, Energy, MaxLogit, ReAct
from lightning_ood.engine.scoring import ScoringCallback
from lightning_ood.errors import InputError
from lightning_ood.features import Features, Reads
from lightning_ood.testing.toy import Toy

TOY = Toy()
READS = Reads(head=True)


def batch(index: list[int], label: int = 1) -> Batch:
    positions = torch.tensor(index)
    return Batch(torch.zeros(len(index), 3, 2, 2), torch.full_like(positions, label), positions, positions[:0])


def features(index: list[int]) -> Features:
    return TOY(TOY.id_test(), READS).select(torch.tensor(index))


def scored(callback: ScoringCallback, loader: int, index: list[int]) -> None:
    nothing: Any = None
    callback.on_test_batch_end(nothing, nothing, features(index), batch(index), 0, loader)


@pytest.mark.parametrize(
    ("detectors", "says"),
    [
        ({"path": Energy()}, "'path' is a column of scores.parquet"),
        ({}, "name at least one detector"),
        ({"energy": None}, "name at least one detector"),
    ],
)
def test_names(detectors: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        ScoringCallback(detectors)


def test_scores_are_in_order_of_loader_and_position() -> None:
    callback = ScoringCallback({"energy": Energy(), "maxlogit": MaxLogit()})
    for loader, index in ((1, [5, 2]), (0, [7, 1]), (0, [0])):
        scored(callback, loader, index)
    rows, scores = callback.finish_test("cpu")
    assert rows[:, :2].tolist() == [[0, 0], [0, 1], [0, 7], [1, 2], [1, 5]]
    expected = features([0, 1, 7, 2, 5])
    assert rows[:, 2].tolist() == [1] * 5 and torch.equal(rows[:, 3], expected.prediction)
    torch.testing.assert_close(scores[:, 0], expected.logits.logsumexp(1))
    torch.testing.assert_close(scores[:, 1], expected.logits.amax(1))
    rows, scores = callback.finish_test("cpu")
    assert rows.shape == (0, 4) and scores.shape == (0, 2), "nothing is left of the last pass"


def test_an_image_that_comes_twice_stops_the_run() -> None:
    callback = ScoringCallback({"energy": Energy()})
    scored(callback, 0, [3, 4])
    scored(callback, 0, [4])
    with pytest.raises(RuntimeError, match="scored more than once"):
        callback.finish_test("cpu")


def test_the_fit_counts_its_images() -> None:
    from lightning.pytorch.trainer.states import TrainerFn

    callback = ScoringCallback({"react": ReAct(), "knn": KNN(k=100)})
    callback.suite.setup(TOY.info())
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.VALIDATING))
    module: Any = SimpleNamespace(device="cpu")
    with pytest.raises(InputError, match="none of the 40 training images could be read"):
        callback.finish_fit("cpu", 40)
    callback.on_validation_batch_end(trainer, module, features(list(range(40))), batch(list(range(40))), 0)
    with pytest.raises(RuntimeError, match="40 images were fitted on, of a set of 39"):
        callback.finish_fit("cpu", 39)
    seen, reasons = callback.finish_fit("cpu", 40)
    assert seen == 40 and list(callback.suite.fitted) == ["react"] and "k=100" in str(reasons["knn"])


def test_a_training_s_validation_is_not_fitted_on() -> None:
    from lightning.pytorch.trainer.states import TrainerFn

    callback = ScoringCallback({"react": ReAct()})
    callback.suite.setup(TOY.info())
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING))
    callback.on_validation_batch_end(trainer, trainer, features([0, 1]), batch([0, 1]), 0)
    assert callback.seen == 0


def fingerprint(name: str) -> dict[str, dict[str, str]]:
    return {"train": {"set": name, "files": "sizes and dates", "content": ""}}


def test_a_fit_is_kept_for_the_same_images_alone() -> None:
    callback = ScoringCallback({"react": ReAct()})
    callback.suite.setup(TOY.info())
    callback.suite.update(TOY(TOY.train(), READS))
    callback.suite.compute()
    callback.fingerprint = fingerprint("these")
    state = callback.state_dict()
    other = ScoringCallback({"react": ReAct()})
    other.fingerprint = fingerprint("others")
    assert other.keep(state, str) == [] and other.suite.fitted == {}
    other.fingerprint = fingerprint("these")
    assert other.keep(state, str) == ["react"]
    assert torch.equal(other.suite.fitted["react"]["threshold"], callback.suite.fitted["react"]["threshold"])
