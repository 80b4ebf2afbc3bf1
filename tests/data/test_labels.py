"""Labels as data sets of users have them: stored beside the images, told by items only, or meant for something else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset
from torchvision.transforms.functional import to_tensor

from lightning_ood.data import Digits, open_set
from lightning_ood.data.checks import check_training_classes
from lightning_ood.data.datamodule import IDSets, OODDataModule
from lightning_ood.data.item_labels import learn_labels
from lightning_ood.errors import InputError
from tests.helpers.tiny import Images

SIZE = 200  # more than are sampled
NUMBERS = [i % 4 for i in range(SIZE)]


class Told(Dataset):
    """Items whose label is ``convert(number)``; ``attributes`` are what else the set holds."""

    def __init__(self, convert=lambda number: number, size=SIZE, **attributes):
        self.images, self.convert = Images(size), convert
        self.__dict__.update(attributes)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image, number = self.images[index]
        return image, self.convert(number)


def learned(dataset, bad_images="error", workers=0):
    images = open_set(dataset, Path("/"), to_tensor, bad_images)
    learn_labels(images, workers)
    return images


def one_hot(number):
    return np.eye(4)[number]


@pytest.mark.parametrize(
    "convert",
    [int, float, np.int64, torch.tensor, one_hot, lambda n: np.array([n]), lambda n: torch.tensor(one_hot(n))],
)
def test_labels_that_only_items_tell_are_read(convert):
    images = learned(Told(convert))
    assert images.labels.tolist() == NUMBERS and images.classes is None
    assert [images[i].label for i in range(8)] == NUMBERS[:8]


@pytest.mark.parametrize("workers", [0, 1])
def test_names_of_classes_are_numbered(workers):
    names = ["dog", "ant", "cat", "bee"]
    sorted_names = ["ant", "bee", "cat", "dog"]
    images = learned(Told(names.__getitem__), workers=workers)
    assert images.classes == sorted_names
    assert images.labels.tolist() == [sorted_names.index(names[n]) for n in NUMBERS]
    assert [images[i].label for i in range(4)] == [3, 0, 2, 1]
    given = learned(Told(names.__getitem__, classes=names))
    assert given.classes == names and given.labels.tolist() == NUMBERS
    with pytest.raises(InputError, match=r"Told: its label is 'cat'; .*`classes` \(dog, ant\)"):
        learned(Told(names.__getitem__, classes=names[:2]))
    with pytest.raises(InputError, match="some of its labels are names and some are numbers"):
        learned(Told(lambda n: "dog" if n == 2 else n))


def test_parts_of_a_concatenation_keep_their_labels():
    both = ConcatDataset([Digits("train"), Subset(Digits("test"), [5, 300])])
    images = open_set(both, Path("/"), to_tensor)
    test = Digits("test").targets
    assert images.labels.tolist() == [*Digits("train").targets, test[5], test[300]]
    assert images.classes == list("01234567")
    told = learned(ConcatDataset([Told(), Images(6)]))
    assert told.labels.tolist() == [*NUMBERS, 0, 1, 2, 3, 0, 1]
    with pytest.raises(InputError, match="its parts name different classes"):
        open_set(ConcatDataset([Digits("train"), Digits("train", (8, 9))]), Path("/"), to_tensor)


def test_a_column_of_stored_labels_is_used():
    images = open_set(Told(lambda n: np.array([n]), labels=np.array(NUMBERS)[:, None]), Path("/"), to_tensor)
    assert images.labels.tolist() == NUMBERS
    assert images[3].label == 3


@pytest.mark.parametrize("stored", [[n + 1 for n in NUMBERS], [3 - n for n in NUMBERS], NUMBERS[::-1]])
def test_labels_of_the_items_count_where_others_are_stored(stored):
    images = learned(Told(targets=stored))
    assert images.labels.tolist() == NUMBERS
    assert "stores other labels beside its images than its items give (item 0: " in images.notice


def test_a_single_label_that_differs_is_refused():
    stored = list(NUMBERS)
    stored[100] = 1
    images = learned(Told(targets=stored))  # 100 is not among the positions that are compared
    with pytest.raises(InputError, match=r"Told\[100\]: its label is 0, and the data set stores 1 beside it"):
        images[100]


def test_items_without_a_label_take_the_stored_one():
    images = learned(Told(lambda n: None, targets=NUMBERS))
    assert [images[i].label for i in range(5)] == [0, 1, 2, 3, 0]


@pytest.mark.parametrize("convert", [lambda n: [{"bbox": [0, 0]}], lambda n: 0.5, lambda n: torch.zeros(40)])
def test_labels_of_other_tasks_are_refused_as_id_and_not_read_as_ood(convert):
    dataset = Told(convert, size=30)
    with pytest.raises(InputError, match=r"Told\[0\]: its label is .*one-hot vector or a class name"):
        learned(dataset)
    data = OODDataModule(IDSets(Images(), Images()), {"far/other": dataset}, val_ood={"other": dataset})
    data.transform = to_tensor
    data.setup("validate")
    data.setup("test")
    for images in (data.sets["ood/far/other"].images, data.val_ood_sets["val_ood/other"]):
        assert images.labels is None and {images[i].label for i in range(30)} == {-1}


class Broken(Told):
    def __getitem__(self, index):
        if index == 100:
            raise OSError("truncated")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_that_cannot_be_read_stops_or_is_skipped(workers):
    with pytest.raises(InputError, match=r"^Broken\[100\]: cannot read this image \(truncated\)"):
        learned(Broken(), workers=workers)
    images = learned(Broken(), "skip", workers)
    assert images.labels.tolist() == [*NUMBERS[:100], -1, *NUMBERS[101:]] and images.unreadable == {100}
    data = OODDataModule(IDSets(Broken(), Images()), bad_images="skip")
    data.transform = to_tensor
    data.setup("validate")


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_labels_out_of_range_are_found_before_the_pass(stage):
    data = OODDataModule(IDSets(Told(lambda n: n + 1), Images()))
    data.transform = to_tensor
    with pytest.raises(InputError, match="no training image in Told for class 0"):
        data.setup(stage)


def test_training_needs_labels():
    data = OODDataModule(IDSets(Told(lambda n: None), Images()))
    data.transform = to_tensor
    data.setup("validate")
    assert data.labels is None
    with pytest.raises(InputError, match=r"data\.id\.train: 200 of 200 images of Told have no label, and training"):
        data.setup("fit")
    data = OODDataModule(IDSets(Images(), Images(), Told(lambda n: None)))
    data.transform = to_tensor
    with pytest.raises(InputError, match=r"data\.id\.val: 200 of 200"):
        data.setup("fit")


def test_a_label_that_no_table_has_room_for_is_refused_at_once():
    images = open_set(Told(targets=[*NUMBERS[:-1], 10**11]), Path("/"), to_tensor)
    with pytest.raises(InputError, match=r"data\.id\.train: Told has the label 100000000000"):
        check_training_classes(images)
