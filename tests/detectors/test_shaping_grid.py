"""Every shaping with every score of the logits, from a config alone, at the price of one pass."""

from pathlib import Path

import lightning as L
import pandas as pd
import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn

from lightning_ood.data.datamodule import IDSets, OODDataModule
from lightning_ood.detectors import list_detectors
from lightning_ood.detectors.base import Detector
from lightning_ood.detectors.block_norm import BlockNorm
from lightning_ood.detectors.energy import Energy
from lightning_ood.detectors.feature_norm import FeatureNorm
from lightning_ood.detectors.odin import ODIN
from lightning_ood.detectors.react import ReAct
from lightning_ood.engine.module import OODModule
from lightning_ood.engine.scoring import ScoringCallback
from tests.helpers.tiny import Images, Net

SUITE = Path(__file__).parents[2] / "configs" / "suites" / "shaping_grid.yaml"
SHAPINGS = ("react", "ash", "scale", "dice", "line", "block_norm")
SCORES = ("msp", "maxlogit", "energy", "gen", "odin")


@pytest.fixture
def grid() -> dict[str, Detector]:
    list_detectors()  # short names are those of imported classes
    parser = ArgumentParser()
    parser.add_class_arguments(ScoringCallback, "scoring", sub_configs=True)
    return parser.instantiate_classes(parser.parse_path(SUITE)).scoring.suite.detectors


def passes(detectors: dict[str, Detector]) -> tuple[int, int, pd.DataFrame]:
    """Images that enter the network in the fit (of 61) and in the test (of 40), and the table of scores."""
    network, seen = Net(), []
    module = OODModule(network=network, weights="none")
    data = OODDataModule(
        IDSets(Images(61), Images(23, seed=1), name="tints"),
        {"near/pale": Images(17, shift=40, seed=2)},
        batch_size=8,
    )
    scoring = ScoringCallback(detectors)
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[scoring],
        enable_progress_bar=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    module.backbone.configure()  # looks at the network before the images are counted
    counts = []
    for work in (trainer.validate, trainer.test):
        seen.clear()
        handle = network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        if work == trainer.test or scoring.suite.requiring_fit:
            work(module, datamodule=data, verbose=False)
        handle.remove()
        if work == trainer.validate and scoring.suite.requiring_fit:
            scoring.finish_fit("cpu", 61)
        # All-zero batches look for in-place operations, before the pass: they are of no image.
        counts.append(sum(len(images) for images in seen if images.any()))
    rows, scores = scoring.finish_test("cpu")
    return counts[0], counts[1], pd.DataFrame(scores.numpy(), columns=list(detectors)).assign(loader=rows[:, 0])


def test_the_grid_is_written_in_the_config_alone(grid: dict[str, Detector]) -> None:
    assert list(grid) == [*SCORES, *(f"{shaping}_{score}" for shaping in SHAPINGS for score in SCORES)]


def test_the_whole_grid_costs_one_pass(grid: dict[str, Detector]) -> None:
    fit, test, scores = passes(grid)
    assert (fit, test) == (61 + 61, 40), "the fit reads a jigsaw of each image, which all block norms share"
    assert scores[list(grid)].notna().all(axis=None)
    without = {name: detector for name, detector in grid.items() if "block_norm" not in name}
    fit, test, alone = passes(without)
    assert (fit, test) == (61, 40)
    pd.testing.assert_frame_equal(alone[list(without)], scores[list(without)])


def test_each_step_of_odin_costs_one_forward_more() -> None:
    detectors: dict[str, Detector] = {
        "energy": Energy(),
        "odin": ODIN(epsilon=0.01),
        "same": ODIN(epsilon=0.01),
        "longer": ODIN(epsilon=0.02),
        "react": ReAct(ODIN(epsilon=0.01)),
        "block_norm": BlockNorm(ODIN(epsilon=0.01), FeatureNorm(block="block1")),
    }
    fit, test, scores = passes(detectors)
    assert (fit, test) == (61, 40 * (1 + 4)), "equal settings share theirs"
    assert [d.extra_forwards["test"] for d in detectors.values()] == [0, 1, 1, 1, 1, 1]
    assert scores["odin"].equals(scores["same"].rename("odin"))
    for name in ("longer", "react", "block_norm"):
        assert not torch.equal(torch.tensor(scores[name]), torch.tensor(scores["odin"]))


def test_a_step_reaches_the_scores_of_a_run() -> None:
    """The scores of a run are those of the perturbed images, by hand."""
    _, _, scores = passes({"odin": ODIN(10, 0.02)})
    network, set_ = Net().eval(), Images(23, seed=1)
    pixels = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in set_.pixels]).float() / 255
    x = ((pixels - 0.5) / 0.5).requires_grad_()
    logits = network(x) / 10
    nn.functional.cross_entropy(logits, logits.argmax(1), reduction="sum").backward()
    assert x.grad is not None
    with torch.no_grad():
        p = (network(x - 0.02 / 0.5 * torch.where(x.grad >= 0, 1.0, -1.0)).double() / 10).softmax(1).amax(1)
    expected = p.logit() + torch.tensor(3.0).log()
    found = torch.tensor(scores.loc[scores["loader"] == 0, "odin"].to_numpy())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
