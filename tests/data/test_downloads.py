import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset
from torchvision.datasets import SVHN
from torchvision.transforms.functional import to_tensor

from lightning_ood.data import FirstOfEachClass, open_set
from lightning_ood.data.downloads import build
from lightning_ood.errors import InputError
from tests.helpers.layouts import Downloading


class Slowly(Downloading):
    def __init__(self, root, **arguments):
        time.sleep(0.05)  # so that all of them look before the first one has written
        super().__init__(root, **arguments)


def test_a_set_is_downloaded_by_one_at_a_time(tmp_path):
    with ThreadPoolExecutor(4) as pool:  # a lock file keeps threads apart as it does processes
        sets = list(pool.map(lambda _: build(Slowly, root=str(tmp_path / "new"), download=True), range(4)))
    assert [type(images) for images in sets] == [Slowly] * 4
    assert [len(images) for images in sets] == [8] * 4


def test_a_folder_that_cannot_be_written_is_read(tmp_path):
    build(Downloading, root=str(tmp_path), download=True)
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").mkdir()  # for root, too, no file can be made there
    assert len(build(Downloading, root=str(tmp_path), download=True)) == 8


def test_a_set_that_cannot_be_built_says_so_when_it_is_opened(tmp_path):
    missing = build(SVHN, root=str(tmp_path), split="test")
    message = f"SVHN in {tmp_path} cannot be opened: Dataset not found or corrupted. You can use download=True"
    with pytest.raises(InputError, match=message):
        open_set(missing, tmp_path, to_tensor)
    with pytest.raises(InputError, match=message):
        open_set(build(FirstOfEachClass, missing), tmp_path, to_tensor)


def test_the_first_images_of_each_class():
    dataset = TensorDataset(torch.rand(9, 3, 4, 4))
    with pytest.raises(InputError, match="TensorDataset has no labels"):
        FirstOfEachClass(dataset, 2)
    dataset.labels = [3, 1, 3, 3, 0, 1, 1, 1, 0]
    chosen = FirstOfEachClass(dataset, 2)
    assert list(chosen.indices) == [0, 1, 2, 4, 5, 8]
    assert open_set(chosen, Path(), to_tensor).labels.tolist() == [3, 1, 3, 0, 1, 0]
