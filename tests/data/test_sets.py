import pickle

import numpy as np
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import to_tensor

from lightning_ood.data import Batch, Digits, Item, collate, open_set
from lightning_ood.errors import InputError


def save(path, grey=0, size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).save(path)
    return path


def broken(path):
    path.write_bytes(save(path, size=(64, 64)).read_bytes()[:-20])
    return path


def open_(spec, root, bad_images="error"):
    return open_set(spec, root, to_tensor, bad_images)


@pytest.fixture
def folder(tmp_path):
    """Class folders in an order, with a depth and with files that matter."""
    for i, name in enumerate(["b/2.png", "b/10.PNG", "b/deep/x.bmp", "a b/1.jpg", "C/0.png", "C/e/0.png", "C/d/0.png"]):
        save(tmp_path / "set" / name, grey=i)
    for name in ["set/b/notes.md", "set/b/._2.png", "set/README"]:
        (tmp_path / name).write_text("no image")
    (tmp_path / "set" / ".cache").mkdir()
    return tmp_path


def test_class_folders_are_those_of_torchvision(folder):
    images = open_("set", folder)
    (folder / "set/.cache").rmdir()
    (folder / "set/b/._2.png").unlink()
    theirs = ImageFolder(folder / "set")
    assert images.classes == theirs.classes == ["C", "a b", "b"]
    assert images.labels.tolist() == theirs.targets
    assert [str(folder / path) for path in images.paths] == [path for path, _ in theirs.samples]
    for i, (image, label) in enumerate(theirs):
        assert images[i].label == label
        assert images[i].index == i
        assert torch.equal(images[i].image, to_tensor(image))


def test_an_absolute_folder_below_the_root_has_relative_paths(folder, tmp_path_factory):
    assert open_(str(folder / "set"), folder).paths == open_("set", folder).paths == open_(folder / "set", folder).paths
    elsewhere = open_(str(folder / "set"), tmp_path_factory.mktemp("root"))
    assert elsewhere.paths[0] == str(folder / "set/C/0.png")
    assert elsewhere[0].image.shape == (3, 4, 4)


def test_a_folder_of_images_has_no_labels(tmp_path):
    for name in ["b.png", "a.png", "c.JPEG"]:
        save(tmp_path / "flat" / name)
    images = open_("flat", tmp_path)
    assert images.paths == ["flat/a.png", "flat/b.png", "flat/c.JPEG"]
    assert images.labels is None
    assert images.classes is None
    assert images[1].label == -1


class Pairs(Dataset):
    """Whatever it is given."""

    def __init__(self, items, **attributes):
        self.items = items
        self.__dict__.update(attributes)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        if isinstance(self.items[i], Exception):
            raise self.items[i]
        return self.items[i]


PIXELS = np.full((4, 4, 3), 51, np.uint8)


def test_any_map_style_dataset_is_wrapped(tmp_path):
    items = [
        (Image.fromarray(PIXELS), 2),
        [PIXELS, torch.tensor(1), "more"],
        (torch.full((3, 4, 4), 0.2), None),
        PIXELS,
    ]
    images = open_(Pairs(items), tmp_path)
    assert [images[i].label for i in range(4)] == [2, 1, -1, -1]
    assert all(torch.equal(images[i].image, torch.full((3, 4, 4), 51) / 255) for i in range(4))
    assert images.labels is None
    assert images.paths == [None] * 4


@pytest.mark.parametrize("name", ["targets", "labels", "_labels"])
@pytest.mark.parametrize("convert", [list, np.array, torch.tensor])
def test_labels_of_a_dataset_are_known_without_decoding(tmp_path, name, convert):
    nothing = [RuntimeError("decoded")] * 3
    dataset = Pairs(nothing, **{name: convert([1, 0, 1])}, classes=["a", ("b", "c")])
    images = open_(dataset, tmp_path)
    assert images.labels.tolist() == [1, 0, 1]
    assert images.classes == ["a", "b, c"]
    assert open_(Subset(dataset, [2, 1]), tmp_path).labels.tolist() == [1, 0]


@pytest.mark.parametrize("targets", [[0.5, 1.0], [[1, 0], [0, 1]], ["a", "b"], [0, 1, 1]])
def test_attributes_that_are_no_labels_are_ignored(tmp_path, targets):
    assert open_(Pairs([PIXELS, PIXELS], targets=targets), tmp_path).labels is None


def test_datasets_that_cannot_be_used_say_why(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            yield PIXELS

    with pytest.raises(InputError, match="Stream is not map-style"):
        open_(Stream(), tmp_path)
    with pytest.raises(InputError, match="Pairs is empty"):
        open_(Pairs([]), tmp_path)
    items = [torch.full((3, 4, 4), -2.0), (PIXELS, "cat"), OSError("truncated"), Image.new("I", (2, 2), 10**6)]
    images = open_(Pairs(items), tmp_path, bad_images="skip")
    with pytest.raises(InputError, match=r"Pairs\[0\]: .*normalisation"):  # a wrong set, not a bad image
        images[0]
    with pytest.raises(InputError, match=r"Pairs\[1\]: its label is 'cat'"):
        images[1]
    assert [images[i].image for i in (2, 3)] == [None, None]
    with pytest.raises(InputError, match=r"Pairs\[2\]: cannot read this image \(truncated\)"):
        open_(Pairs(items), tmp_path)[2]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_images_stop_or_are_listed(tmp_path, num_workers):
    for i in range(5):
        (broken if i in (1, 2, 3) else save)(tmp_path / "set" / f"{i}.jpg").touch()
    for i in (0, 4):
        save(tmp_path / "set" / f"{i}.jpg", size=(64, 64))
    loader = {"batch_size": 2, "collate_fn": collate, "num_workers": num_workers}
    batches = list(DataLoader(open_("set", tmp_path, "skip"), **loader))
    assert [batch.index.tolist() for batch in batches] == [[0], [], [4]]
    assert [batch.skipped.tolist() for batch in batches] == [[1], [2, 3], []]
    assert [batch.image.shape[:2] for batch in batches] == [(1, 3), (0, 3), (1, 3)]
    with pytest.raises(InputError, match=r"1\.jpg: cannot read this image .*truncated.*bad_images skip") as caught:
        list(DataLoader(open_("set", tmp_path), **loader))
    assert "Traceback" not in str(caught.value)


def test_a_batch_moves_pins_and_pickles(tmp_path):
    batch = collate([open_(Digits("test"), tmp_path)[i] for i in (0, 300)])
    assert batch.image.shape == (2, 3, 32, 32)
    assert batch.image.dtype == torch.float32
    assert (batch.label.tolist(), batch.index.tolist(), batch.skipped.tolist()) == ([0, 6], [0, 300], [])
    assert {batch.label.dtype, batch.index.dtype, batch.skipped.dtype} == {torch.int64}
    for other in (move_data_to_device(batch, torch.device("cpu")), pickle.loads(pickle.dumps(batch))):
        assert isinstance(other, Batch)
        assert torch.equal(other.image, batch.image)


def test_images_of_different_sizes_name_the_cause():
    with pytest.raises(InputError, match=r"\(3, 4, 4\), \(3, 5, 4\).*resize or crop"):
        collate([Item(torch.zeros(3, 4, 4), 0, 0), Item(torch.zeros(3, 5, 4), 0, 1)])


def test_a_set_without_labels_gives_none(folder):
    images = open_set("set", folder, to_tensor, labelled=False)
    assert images.labels is None
    assert images.classes is None
    assert {images[i].label for i in range(len(images))} == {-1}
    assert open_("set", folder)[0].label == 0
