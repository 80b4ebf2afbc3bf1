"""``evaluate``: a table from Python in one call, from sets in every form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import lightning_ood
from lightning_ood import Backbone, DetectorSuite, InputError, evaluate
from lightning_ood.detectors import KNN, MDS, MSP, Energy
from lightning_ood.features import Head
from lightning_ood.networks.preprocess import Preprocess
from tests.helpers.tiny import Images, Net

TRAIN, TEST, WHITE = Images(60), Images(30, seed=1), Images(20, shift=130)
DETECTORS = ["MSP", "energy", "knn", "MDS", "NAP"]


def tensors(images: Images) -> Tensor:
    transform = Preprocess.from_config(Net.default_cfg).transform()
    return torch.stack([transform(images[i][0]) for i in range(len(images))])


def result(train: Any, test: Any, ood: Any, **options: Any) -> lightning_ood.Evaluation:
    return evaluate(Net(), id_train=train, id_test=test, ood={"far/white": ood}, **{"detectors": DETECTORS, **options})


@pytest.fixture(scope="module")
def expected() -> pd.DataFrame:
    return result(TRAIN, TEST, WHITE).scores


def written(images: Images, folder: Path) -> Path:
    for i in range(len(images)):
        image, label = images[i]
        (folder / f"class{label}").mkdir(parents=True, exist_ok=True)
        image.save(folder / f"class{label}" / f"{i:02}.png")
    return folder


def test_equals_a_loop_of_ones_own(expected: pd.DataFrame) -> None:
    suite = DetectorSuite({"KNN": KNN(), "MDS": MDS(), "Energy": Energy()})
    with Backbone(Net().eval(), (12, 12), mean=(0.5,) * 3, std=(0.5,) * 3) as backbone, torch.inference_mode():
        suite.setup(backbone.info(torch.tensor(TRAIN.targets)))
        backbone.configure(suite.reads("fit"))
        suite.update(backbone(tensors(TRAIN), torch.tensor(TRAIN.targets)))
        assert suite.compute() == {}
        backbone.configure(suite.reads("test"))
        scores = torch.cat([suite.score(backbone(tensors(images))) for images in (TEST, WHITE)])
    np.testing.assert_allclose(expected[["KNN", "MDS", "Energy"]], scores, rtol=1e-4, atol=1e-4)
    assert list(expected) == [
        *("dataset", "role", "group", "index", "path", "label", "prediction"),
        *("MSP", "Energy", "KNN", "MDS", "NAP"),
    ]
    assert expected["label"].tolist()[:30] == TEST.targets and expected["label"][30:].isna().all()
    assert expected.groupby("dataset", sort=False)["index"].max().to_dict() == {"id": 29, "white": 19}


class Dicts(Dataset[dict[str, Any]]):
    """Items as Hugging Face's processors make them."""

    def __init__(self, images: Images) -> None:
        self.images, self.targets = tensors(images), images.targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.images[index], "labels": self.targets[index]}


def shuffled(images: Images) -> DataLoader:
    return DataLoader(TensorDataset(tensors(images), torch.tensor(images.targets)), batch_size=7, shuffle=True)


FORMS = {
    "tensors": lambda images: (tensors(images), torch.tensor(images.targets)),
    "float64 arrays": lambda images: (tensors(images).double().numpy(), np.array(images.targets)),
    "pixels": lambda images: (images.pixels, images.targets),
    "tensor data set": lambda images: TensorDataset(tensors(images), torch.tensor(images.targets)),
    "shuffled loader": shuffled,
    "mappings": lambda images: DataLoader(Dicts(images), batch_size=16),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same(form: str, expected: pd.DataFrame) -> None:
    found = result(*(FORMS[form](images) for images in (TRAIN, TEST, WHITE))).scores
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-4, atol=1e-4)


def test_folders_have_paths(expected: pd.DataFrame, tmp_path: Path) -> None:
    folders = [written(images, tmp_path / str(i)) for i, images in enumerate((TRAIN, TEST, WHITE))]
    found = result(*folders).scores
    assert found["path"].notna().all()
    for name in ("id", "white"):  # in the order of the files
        ours, theirs = (table[table["dataset"] == name]["MSP"].sort_values() for table in (found, expected))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_an_output_with_logits_is_read(expected: pd.DataFrame) -> None:
    class Output(dict[str, Tensor]):
        logits = property(lambda self: self["logits"])

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Net()

        def forward(self, pixel_values: Tensor) -> Output:
            return Output(logits=self.inner(pixel_values))

    sets = [(tensors(images), images.targets) for images in (TRAIN, TEST, WHITE)]
    network = Wrapped().train()
    found = evaluate(network, id_train=sets[0], id_test=sets[1], ood={"white": sets[2]}, detectors=DETECTORS)
    np.testing.assert_allclose(found.scores["KNN"], expected["KNN"], rtol=1e-4, atol=1e-4)
    assert network.training and not any(module._forward_hooks for module in network.modules())


def test_table_plot_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"near/pale": Images(20, shift=60), "far/white": WHITE, "far/grey": Images(20, shift=90)}
    found = evaluate(Net(), id_train=TRAIN, id_test=TEST, ood=more, detectors=[MSP, KNN(k=5)])
    assert list(found.table.columns.get_level_values("set").unique()) == ["pale", "white", "grey", "far mean"]
    row = found.metrics.query("detector == 'KNN' and dataset == 'white'")
    assert found.table.loc["KNN", ("white", "auroc")] == row["auroc"].item()
    assert "far mean" in str(found) and "<table" in found._repr_html_()
    assert found.plot().axes
    folder = found.save(tmp_path / "out")
    assert pd.read_csv(folder / "metrics.csv")["auroc"].tolist() == pytest.approx(found.metrics["auroc"].tolist())
    assert (folder / "report" / "index.html").is_file() and "KNN" in capsys.readouterr().out
    assert pd.read_parquet(folder / "scores.parquet")["KNN"].tolist() == found.scores["KNN"].tolist()


def test_detectors_that_cannot_run_are_left_out() -> None:
    with pytest.warns(UserWarning, match="MDS is left out: .*labels"):
        found = result(tensors(TRAIN), TEST, WHITE, detectors=["MSP", "MDS", "KNN"])
    assert list(found.failed) == ["MDS"] and list(found.suite.detectors) == ["MSP", "KNN"]
    with pytest.warns(UserWarning, match="KNN is left out: it has to be fitted"):
        found = result(None, TEST, WHITE, detectors=["MSP", "KNN"])
    assert "KNN" not in found.scores


def test_features_in_place_of_images(expected: pd.DataFrame, tmp_path: Path) -> None:
    with Backbone(Net().eval(), (12, 12)) as backbone, torch.inference_mode():
        head = backbone.head
        rows = [backbone(tensors(images)).pooled for images in (TRAIN, TEST, WHITE)]
    assert head is not None
    train, test, white = (each.double().numpy() for each in rows)
    np.savez(tmp_path / "white.npz", pooled=white)
    sets = {"id_train": (train, TRAIN.targets), "id_test": (test, TEST.targets)}
    for far in (white, tmp_path / "white.npz", TensorDataset(torch.from_numpy(white))):
        with pytest.warns(UserWarning, match="NAP is left out: NAP reads the map"):
            found = evaluate(head, **sets, ood={"far/white": far}, detectors=DETECTORS)
        shared = ["label", "prediction", "MSP", "Energy", "KNN", "MDS"]
        pd.testing.assert_frame_equal(found.scores[shared], expected[shared], rtol=1e-4, atol=1e-4)


def test_every_training_batch_is_read_once() -> None:
    read = []

    class Counting(Dicts):
        def __getitem__(self, index: int) -> dict[str, Any]:
            read.append(index)
            return super().__getitem__(index)

    result(DataLoader(Counting(TRAIN), batch_size=16), TEST, WHITE, detectors=["KNN"])
    assert read == list(range(60))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": Head(torch.eye(4), torch.zeros(4))}, "id_train: its items are images, and the network takes feat"),
        ({"id_test": "features.npz"}, "id_test: .*no such file"),
        ({"detectors": ["KNNN"]}, "no detector is called 'KNNN'; .*KNN"),
        ({"detectors": [KNN(), KNN(k=3)]}, "two detectors are called KNN"),
        ({"ood": {}}, "ood is empty"),
        ({"ood": {"near/x": 3}}, r"ood\['near/x'\]: a int is no image set"),
        ({"ood": {"id/x": WHITE}}, "group of in-distribution sets"),
        ({"id_test": (tensors(TEST), [1, 2])}, "id_test: 30 images and 2 labels"),
        ({"id_test": tensors(TEST)[0]}, r"id_test: an array \[3, 12, 12\] is no batch"),
        ({"id_train": None, "detectors": ["KNN"]}, "KNN: it has to be fitted"),
        ({"network": nn.Sequential(nn.Flatten(), nn.Linear(432, 4))}, "preprocess="),
    ],
)
def test_what_cannot_be_is_named(options: dict[str, Any], message: str) -> None:
    given = {"network": Net(), "id_train": TRAIN, "id_test": TEST, "ood": {"white": WHITE}, **options}
    with pytest.raises(InputError, match=message):
        evaluate(given.pop("network"), **given)
