import pytest
from PIL import Image
from torchvision.transforms.functional import to_tensor

from lightning_ood.data import Digits
from lightning_ood.data.datamodule import IDSets, OODDataModule
from lightning_ood.errors import InputError


def write_set(root, classes, count=2):
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (8, 8), i).save(root / name / f"{i}.png")


@pytest.mark.parametrize(
    ("name", "ood", "message"),
    [
        ("c10", ["near/a", "far/a"], r"data\.ood\.far/a: `a` is the name of data\.ood\.near/a already"),
        ("c10", ["far/c10"], "name of the in-distribution set already"),
        ("c10", ["far/mean"], "`mean` is reserved"),
        ("mean", [], r"data\.id\.name: `mean` is reserved"),
        ("a/b", [], "slash"),
        ("c10", ["textures"], "`<group>/<name>`, as in `near/textures`"),
        ("c10", ["far/a/b"], "slash"),
        ("c10", ["/b"], "empty"),
        ("c10", ["far/"], "empty"),
        ("c10", ["far/caf\udce9"], r"'data\.ood\.far/caf\\udce9': .* in UTF-8"),
        ("c\n10", [], r"data\.id\.name.* printed"),
        ("c10", ["id/b"], "choose another group"),
    ],
)
def test_names_that_would_confuse_the_tables_are_refused(name, ood, message):
    with pytest.raises(InputError, match=message):
        OODDataModule(IDSets("train", "test", name=name), dict.fromkeys(ood, "folder"))


def prepare(root, ood=True):
    write_set(root / "train", ["cat", "dog"])
    write_set(root / "test", ["cat", "dog"])
    write_set(root / "ood", ["tree"])
    data = OODDataModule(IDSets("train", "test"), {"far/trees": "ood"} if ood else None, root=str(root))
    data.transform = to_tensor
    return data


def number_from_one(data, root):
    files = sorted((root / "train").rglob("*.png"))
    lines = [f"{file.relative_to(root)} {1 + (file.parent.name == 'dog')}" for file in files]
    (root / "train.txt").write_text("\n".join(lines))
    data.id.train = "train.txt"


def leave_one(data, root):
    for file in list((root / "ood").rglob("*.png"))[1:]:
        file.unlink()


def half_labelled(data, root):
    (root / "train.txt").write_text("train/cat/0.png 0\ntrain/dog/0.png\n")
    data.id.train = "train.txt"


class NoEights(Digits):
    """Names nine classes and has images of eight."""

    def __init__(self):
        super().__init__()
        self.classes = [*self.classes, "eight"]


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ("fit", lambda data, root: setattr(data.id, "train", "gone"), r"data\.id\.train: .*gone: no such folder"),
        ("fit", lambda data, root: setattr(data.id, "val", "gone"), r"data\.id\.val: .*gone: no such folder"),
        ("fit", lambda data, root: setattr(data.id, "val", "ood"), r"data\.id\.val: .*missing: cat, dog; .*: tree"),
        ("validate", number_from_one, r"no training image in train\.txt for class 0"),
        ("validate", half_labelled, r"1 of 2 images of train\.txt have no label"),
        ("validate", lambda data, root: setattr(data.id, "train", NoEights()), "for class eight"),
        ("test", lambda data, root: data.ood.update({"near/x": "gone"}), r"data\.ood\.near/x: .*gone: no such folder"),
        ("test", lambda data, root: data.ood.clear(), r"--data\.ood\.<group>/<name>"),
        ("test", leave_one, r"data\.ood\.far/trees: ood has one image"),
    ],
)
def test_sets_that_cannot_give_a_number_are_refused_early(tmp_path, stage, change, message):
    data = prepare(tmp_path)
    change(data, tmp_path)
    with pytest.raises(InputError, match=message):
        data.setup(stage)


def test_a_test_set_of_other_classes_than_the_fit_is_refused(tmp_path):
    data = prepare(tmp_path)
    data.setup("validate")
    saved = data.state_dict()
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "bird")
    other = OODDataModule(data.id, data.ood, root=str(tmp_path))
    other.transform = to_tensor
    other.setup("test")
    other.load_state_dict(saved)
    with pytest.raises(InputError, match=r"data\.id\.test: .*missing: dog; not in training: bird"):
        other.test_dataloader()
