import pickle
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image
from torch.utils.data import DistributedSampler
from torchvision.transforms.functional import to_tensor

from lightning_ood.data import Digits, ImageList, Patches
from lightning_ood.data.augment import Augment
from lightning_ood.data.datamodule import IDSets, OODDataModule, data_root
from lightning_ood.errors import InputError
from lightning_ood.networks import preprocess


class Preprocess:
    def transform(self):
        return to_tensor


class Tiny(L.LightningModule):
    """Trains one number, and notes what it sees."""

    def __init__(self):
        super().__init__()
        self.preprocess = Preprocess()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {}

    def note(self, loader, batch):
        self.seen.setdefault(loader, []).extend(batch.index.tolist())

    def training_step(self, batch, _):
        self.note("train", batch)
        return (self.weight - batch.image.mean()).square()

    def validation_step(self, batch, _, dataloader_idx=0):
        self.note(list(self.trainer.val_dataloaders)[dataloader_idx], batch)

    def test_step(self, batch, _, dataloader_idx=0):
        self.note(list(self.trainer.test_dataloaders)[dataloader_idx], batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fake_trainer(fn, rank=0, world_size=1):
    return SimpleNamespace(
        state=SimpleNamespace(fn=fn),
        global_rank=rank,
        world_size=world_size,
        lightning_module=SimpleNamespace(preprocess=Preprocess()),
    )


def digits(val=None, **kwargs):
    ood = {"near/8_9": Digits("all", (8, 9)), "far/textures": Patches("textures", 20)}
    return OODDataModule(IDSets(Digits("train"), Digits("test"), val, name="digits"), ood, **kwargs)


@pytest.mark.parametrize("val", [None, Digits("test")])
def test_a_trainer_reads_every_set_in_each_phase(tmp_path, val):
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_epochs=2, num_sanity_val_steps=0, default_root_dir=tmp_path, **options
    )
    model = Tiny()
    data = digits(val)
    trainer.fit(model, datamodule=data)
    epochs = torch.tensor(model.seen["train"]).reshape(2, 1082)
    assert all(sorted(epoch.tolist()) == list(range(1082)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])  # another order in each epoch
    assert model.seen.get("val", []) == ([] if val is None else 2 * list(range(361)))
    trainer.validate(model, datamodule=data, verbose=False)
    trainer.test(model, datamodule=data, verbose=False)
    sizes = {"fit": 1082, "id": 361, "ood/near/8_9": 354, "ood/far/textures": 20}
    assert {name: model.seen[name] for name in sizes} == {name: list(range(size)) for name, size in sizes.items()}
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)
    assert saved["OODDataModule"] == {"classes": list("01234567")}


def test_what_the_sets_are(tmp_path):
    data = digits()
    data.transform = to_tensor
    data.setup("test")
    described = {key: (entry.name, entry.role, entry.group) for key, entry in data.sets.items()}
    assert described == {
        "id": ("digits", "id", "id"),
        "ood/near/8_9": ("8_9", "ood", "near"),
        "ood/far/textures": ("textures", "ood", "far"),
    }
    assert data.classes == list("01234567")
    loaders = data.test_dataloader()
    assert list(loaders) == list(described)
    assert {int(label) for batch in loaders["id"] for label in batch.label} == set(range(8))
    assert {int(label) for batch in loaders["ood/near/8_9"] for label in batch.label} == {-1}


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_each_set_without_repeats(world_size):
    seen = {}
    for rank in range(world_size):
        data = digits(batch_size=100)
        for stage, fn in [("validate", TrainerFn.VALIDATING), ("test", TrainerFn.TESTING)]:
            data.trainer = fake_trainer(fn, rank, world_size)
            data.setup(stage)
            loaders = data.val_dataloader() if stage == "validate" else data.test_dataloader()
            for name, loader in loaders.items():
                seen.setdefault(name, []).extend(loader.sampler)
        data.trainer = fake_trainer(TrainerFn.FITTING, rank, world_size)
        data.setup("fit")
        train = data.train_dataloader()
        assert isinstance(train.sampler, DistributedSampler)
        assert len(train.sampler) == -(-1082 // world_size)
    sizes = {"fit": 1082, "id": 361, "ood/near/8_9": 354, "ood/far/textures": 20}
    assert {name: sorted(indices) for name, indices in seen.items()} == {k: list(range(n)) for k, n in sizes.items()}


def test_labels_of_the_fit_set_come_before_any_batch():
    data = digits()
    data.transform = to_tensor
    data.setup("validate")
    assert torch.bincount(data.labels).tolist() == [134, 136, 133, 137, 136, 136, 136, 134]


def test_only_training_images_are_augmented():
    data = digits(augment=["crop", "flip"])
    data.trainer = fake_trainer(TrainerFn.FITTING)
    data.setup("fit")
    plain = data.train_set
    augmented = pickle.loads(pickle.dumps(data.train_dataloader().dataset))  # as a spawned worker gets it
    torch.manual_seed(0)
    assert sum(torch.equal(augmented[i].image, plain[i].image) for i in range(50)) < 10
    assert all(torch.equal(plain[i].image, to_tensor(data.id.train[i][0])) for i in range(50))
    assert augmented[3].image.shape == plain[3].image.shape


def test_a_crop_moves_by_at_most_an_eighth_and_a_flip_mirrors():
    image = Image.new("L", (16, 32))
    image.putpixel((8, 16), 255)
    torch.manual_seed(0)
    crops = [Augment(to_tensor, ("crop",))(image)[0].nonzero()[0] for _ in range(200)]
    rows, columns = torch.stack(crops).T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 20, 6, 10)
    flips = {int(Augment(to_tensor, ("flip",))(image)[0].nonzero()[0, 1]) for _ in range(20)}
    assert flips == {7, 8}
    with pytest.raises(InputError, match="no such change rotate; there are crop, flip"):
        Augment(to_tensor, ("rotate",))


def test_images_of_the_networks_size_may_stay_as_they_are(tmp_path):
    for name, size in (("small", 8), ("right", 10)):
        Image.linear_gradient("L").resize((size, size)).save(tmp_path / f"{name}.png")
    (tmp_path / "set.txt").write_text("small.png 0\nright.png 1\n")
    usual = preprocess.Preprocess.of(size=10, resize=14, mean=[0, 0, 0], std=[1, 1, 1])
    sets = {}
    for keep in (False, True):
        data = OODDataModule(
            IDSets(Digits(), ImageList("set.txt")),
            {"far/a": Patches()},
            str(tmp_path),
            csid={"c": ImageList("set.txt", keep_size=keep)},
        )
        data.trainer = fake_trainer(TrainerFn.TESTING)
        data.trainer.lightning_module.preprocess = usual
        data.setup("test")
        sets[keep] = data.sets["csid/c"].images
    whole = to_tensor(Image.open(tmp_path / "right.png").convert("RGB"))
    assert torch.equal(sets[True][1].image, whole) and not torch.allclose(sets[False][1].image, whole)
    assert torch.equal(sets[True][0].image, sets[False][0].image)


def test_orientation_is_an_option(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # the top of the scene is on the right
    (tmp_path / "set").mkdir()
    for i in range(2):
        image = Image.new("L", (3, 2))
        image.putpixel((0, 0), 255)
        image.save(tmp_path / "set" / f"{i}.png", exif=exif)
    bright = {}
    for option in (False, True):
        data = OODDataModule(IDSets(Digits(), "set"), {"far/a": "set"}, str(tmp_path), exif_orientation=option)
        data.transform = to_tensor
        data.setup("test")
        for entry in data.sets.values():
            bright[option] = entry.images[0].image[0].nonzero().tolist(), list(entry.images[0].image.shape)
    assert bright == {False: ([[0, 0]], [3, 2, 3]), True: ([[0, 1]], [3, 3, 2])}


def test_the_root_is_the_argument_the_environment_or_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTNING_OOD_DATA", "/somewhere")
    assert str(data_root()) == "/somewhere"
    assert data_root("here") == tmp_path / "here"
    monkeypatch.delenv("LIGHTNING_OOD_DATA")
    assert data_root() == tmp_path / "data"


def test_without_preprocessing_it_says_what_to_do():
    with pytest.raises(InputError, match=r"datamodule\.transform"):
        digits().setup("test")


CONFIG = """
data:
  id:
    name: digits
    train: {class_path: lightning_ood.data.Digits}
    test: {class_path: lightning_ood.data.Digits, init_args: {split: test}}
  ood:
    near/8_9:
      class_path: lightning_ood.data.Digits
      init_args: {split: all, digits: [8, 9]}
    far/trees: trees
"""


def parse(tmp_path, *args):
    (tmp_path / "config.yaml").write_text(CONFIG)
    options = {"logger": False, "accelerator": "cpu", "devices": 1}
    args = ["--config", str(tmp_path / "config.yaml"), *args]
    cli = LightningCLI(Tiny, OODDataModule, run=False, args=args, trainer_defaults=options, save_config_callback=None)
    return cli.datamodule


def test_the_command_line_changes_and_adds_sets(tmp_path):
    data = parse(tmp_path)
    assert (data.id.name, len(data.id.train), len(data.id.test), data.id.val) == ("digits", 1082, 361, None)
    assert (list(data.ood), len(data.ood["near/8_9"]), data.ood["far/trees"]) == (
        ["near/8_9", "far/trees"],
        354,
        "trees",
    )
    data = parse(
        tmp_path,
        "--data.ood.far/mine=my/folder",
        "--data.ood.far/patches.class_path=lightning_ood.data.Patches",
        "--data.ood.far/patches.init_args.count=7",
        "--data.ood.near/8_9.init_args.split=test",
        "--data.id.val=val.txt",
        "--data.root=elsewhere",
        "--data.augment=[crop]",
        "--data.bad_images=skip",
    )
    assert list(data.ood) == ["near/8_9", "far/trees", "far/mine", "far/patches"]
    assert (len(data.ood["near/8_9"]), data.ood["far/mine"], len(data.ood["far/patches"])) == (89, "my/folder", 7)
    assert (data.id.val, data.root.name, data.augment, data.bad_images) == ("val.txt", "elsewhere", ["crop"], "skip")


@pytest.mark.parametrize("argument", ["--data.bad_images=ignore", "--data.ood.far.mine=folder", "--data.id.trian=x"])
def test_a_wrong_argument_stops_the_parser(tmp_path, argument, capsys):
    with pytest.raises(SystemExit):
        parse(tmp_path, argument)
    assert "error" in capsys.readouterr().err


@pytest.mark.kit
def test_the_kit_is_read_as_it_is(kit):
    ood = {"near/tiny_imagenet": "tiny_imagenet", "far/textures": "textures", "far/sun": "sun"}
    data = OODDataModule(IDSets("cifar10/train", "cifar10/test", name="cifar10"), ood, root=str(kit), batch_size=50)
    data.transform = lambda image: to_tensor(image.resize((32, 32)))
    data.setup("validate")
    data.setup("test")
    assert len(data.labels) == 4000
    assert data.classes == ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert torch.bincount(data.labels).min() > 300
    assert [len(entry.images) for entry in data.sets.values()] == [1000, 1000, 1200, 1509]
    assert data.sets["id"].images.paths[0].startswith("cifar10/test/airplane/")
    near = list(data.test_dataloader()["ood/near/tiny_imagenet"])  # some are grey
    assert torch.cat([batch.index for batch in near]).tolist() == list(range(1000))
    assert all(batch.image.shape == (50, 3, 32, 32) for batch in near)


def folders(path, names):
    for name in names:
        (path / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (4, 4), (10 * i, 0, 0)).save(path / name / f"{i}.png")
    return str(path)


def test_a_test_folder_with_some_of_the_classes_is_numbered_by_name(tmp_path):
    train, test = folders(tmp_path / "train", ["ant", "bee", "cat", "dog"]), folders(tmp_path / "test", ["bee", "dog"])
    data = OODDataModule(
        IDSets(train=train, test=test, val=test, name="mine"), {"far/other": train}, root=str(tmp_path)
    )
    data.transform = to_tensor
    data.setup("fit")
    assert data.val_set.labels.tolist() == [1, 1, 3, 3]
    other = OODDataModule(IDSets(train=train, test=test, name="mine"), {"far/other": train}, root=str(tmp_path))
    other.transform = to_tensor
    other.load_state_dict(data.state_dict())
    other.setup("test")
    assert other.classes == ["ant", "bee", "cat", "dog"]  # for the check against the network's logits
    batch = next(iter(other.test_dataloader()["id"]))
    assert batch.label.tolist() == [1, 1, 3, 3]
    assert other.sets["id"].images.labels.tolist() == [1, 1, 3, 3] and other.sets["id"].images.classes == other.classes
    assert next(iter(other.test_dataloader()["id"])).label.tolist() == [1, 1, 3, 3]  # once is enough


def test_a_test_folder_with_another_class_is_refused(tmp_path):
    train, test = folders(tmp_path / "train", ["ant", "bee"]), folders(tmp_path / "test", ["ant", "wasp"])
    data = OODDataModule(IDSets(train=train, test=test, name="mine"), {"far/other": train}, root=str(tmp_path))
    data.transform = to_tensor
    data.load_state_dict({"classes": ["ant", "bee"]})
    data.setup("test")
    with pytest.raises(InputError, match="missing: bee; not in training: wasp"):
        data.test_dataloader()
