"""``data.limit``: a few images of each set, spread over it, and told with every number."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torchvision.transforms.functional import to_tensor

from lightning_ood.commands.check.findings import Findings
from lightning_ood.commands.check.sets import open_sets
from lightning_ood.commands.cli import main
from lightning_ood.data.datamodule import IDSets, OODDataModule
from lightning_ood.data.limit import balanced, limited
from lightning_ood.data.opening import open_set
from lightning_ood.errors import InputError
from tests.helpers.tiny import Images


def test_classes_share_alike_and_small_ones_give_all() -> None:
    labels = torch.tensor([0] * 100 + [1] * 3 + [2] * 50)
    chosen = balanced(labels, 23)
    assert labels[chosen].bincount().tolist() == [10, 3, 10]
    assert torch.equal(chosen, balanced(labels, 23)) and not torch.equal(chosen, balanced(labels, 23, seed=1))
    assert torch.equal(chosen, chosen.unique()), "rising, each once"
    assert balanced(labels, 153).tolist() == list(range(153))


@pytest.mark.parametrize("count", [1, 7, 40])
def test_they_are_spread_and_not_the_head(count: int) -> None:
    chosen = balanced(torch.zeros(1000, dtype=torch.int64), count)
    assert (chosen * count // 1000).tolist() == list(range(count)), "one in each equal part"


def test_fewer_than_classes_are_not_the_first_or_the_last_ones() -> None:
    classes = torch.arange(1000).repeat(2)[balanced(torch.arange(1000).repeat(2), 200)]
    assert len(classes.unique()) == 200 and 400 < classes.float().mean() < 600


def test_a_part_of_a_set_reads_its_own_images_and_knows_their_places(tmp_path: Path) -> None:
    for k in range(4):
        (tmp_path / f"class{k}").mkdir()
        for i in range(5):
            Image.new("RGB", (4, 4), (50 * k, 40 * i, 9)).save(tmp_path / f"class{k}" / f"{i}.png")
    for spec in (tmp_path, Images(30)):
        whole = open_set(spec, tmp_path, to_tensor)
        part = limited(whole, 8, seed=3)
        assert len(part) == 8 and part.whole is whole and limited(part, 8) is part and limited(whole, 99) is whole
        assert part.labels is not None and part.labels.bincount().tolist() == [2, 2, 2, 2]
        for i in range(8):
            theirs = whole[part.position(i)]
            assert torch.equal(part[i].image, theirs.image) and part[i].label == theirs.label  # type: ignore[arg-type]
            assert part[i].index == i and part.paths[i] == whole.paths[part.position(i)]
        twice = part.subset(torch.tensor([1, 3]))
        assert twice.position(1) == part.position(3) and torch.equal(twice[1].image, part[3].image)  # type: ignore[arg-type]


def test_every_set_is_limited_and_each_class_needs_an_image() -> None:
    def opened(limit: int) -> OODDataModule:
        data = OODDataModule(IDSets(Images(60), Images(23), Images(30)), {"near/a": Images(9), "far/b": Images(3)},
                             val_ood={"v": Images(40)}, limit=limit)  # fmt: skip
        data.transform = to_tensor
        for stage in ("fit", "test"):
            data.setup(stage)
        return data

    data = opened(8)
    assert data.train_set is not None and data.val_set is not None
    sets = [data.train_set, data.val_set, *data.val_ood_sets.values(), *(x.images for x in data.sets.values())]
    assert [len(images) for images in sets] == [8, 8, 8, 8, 8, 3]
    with pytest.raises(InputError, match=r"for class class0; write data\.limit: 4 or more"):
        opened(3)
    with pytest.raises(InputError, match=r"data\.limit is 1; write"):
        opened(1)


LINE = "Limited to at most 8 images a set (data.limit)."
FEW = ("--scoring.detectors", "{energy: Energy, knn: {class_path: KNN, init_args: {k: 3}}}")


def test_it_is_told_with_every_number_and_another_limit_is_not_mixed(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*arguments: object, code: int = 0) -> str:
        with pytest.raises(SystemExit) if code else nullcontext():
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return " ".join((said.err if code else said.out).split())

    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "tiny"
    limited = ("--config", config, "--data.limit", 8, *FEW)
    fitted = call("fit", *limited)
    assert "Fitted on 8 images" in fitted and LINE in fitted
    mixed = call("test", "--config", config, *FEW, code=2)
    assert "last.ckpt was fitted with data.limit 8, and this run has data.limit null: run fit again" in mixed
    assert LINE in call("test", *limited)
    scores, metrics = pd.read_parquet(run / "scores.parquet"), pd.read_csv(run / "metrics.csv")
    assert scores["dataset"].value_counts().to_dict() == {"tints": 8, "pale": 8, "white": 2}
    assert scores[scores["dataset"] == "tints"]["index"].max() > 8, "places in the whole set"
    assert set(metrics["limit"]) == {8} and LINE in (run / "report" / "index.html").read_text()
    assert LINE in call("report", run, "--latex") and LINE in (run / "report" / "table.md").read_text()
    assert LINE in (run / "report" / "index.html").read_text() and set(pd.read_csv(run / "metrics.csv")["limit"]) == {8}
    call("leaderboard", run, "--out", tmp_path / "site")
    assert LINE in (tmp_path / "site" / "index.html").read_text()
    found = Findings()
    options = yaml.safe_load((run / "config.yaml").read_text())["data"]
    assert [len(images) for images in open_sets(found, options).values()] == [8, 8, 8, 2]
    assert LINE in [finding.message for finding in found.listed]
    whole = call("fit", "--config", config, *FEW)
    assert "Fitted on 61 images" in whole and "Keeping" not in whole
    assert LINE in call("test", *limited), "a fit on all, tried on a few"
