"""A fit or a trained network is taken over for the same images, labels, class names and root, and for no others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from lightning_ood.data.datamodule import IDSets, OODDataModule
from lightning_ood.data.fingerprint import content_text, pixel_sum
from lightning_ood.data.sets import Batch
from lightning_ood.detectors.mds import MDS
from lightning_ood.engine import run
from lightning_ood.engine.module import OODModule
from lightning_ood.engine.run_dir import RunFolder
from lightning_ood.engine.scoring import ScoringCallback
from lightning_ood.errors import InputError
from tests.helpers.tiny import Images, Net, quiet_trainer

EACH = 30


def images(path: Path, seed: int = 0, keep: int = 0) -> Path:
    """Four classes of 30 bitmaps of one size; where ``keep`` is given, each keep-th file stays as it is."""
    generator = np.random.default_rng(seed)
    for k in range(4):
        (path / f"class{k}").mkdir(parents=True, exist_ok=True)
        for i in range(EACH):
            pixels = generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)
            if not keep or (EACH * k + i) % keep:
                Image.fromarray(pixels).save(path / f"class{k}" / f"{i:02}.bmp")
    return path


def fit(folder: Path, data: OODDataModule, finetune: Any = "none") -> list[str]:
    """Fits MDS; returns the names that had to be fitted."""
    L.seed_everything(0, verbose=False)
    module = OODModule(network=Net(), weights="none", finetune=finetune)
    scoring = ScoringCallback({"mds": MDS()})
    fitted: list[str] = []
    compute = scoring.suite.compute
    scoring.suite.compute = lambda: (fitted.extend(scoring.suite.unfitted), compute())[1]  # type: ignore[method-assign]
    run.fit(quiet_trainer([scoring], max_epochs=1), module, data, scoring, RunFolder(folder))
    return fitted


def opened(root: Path) -> OODDataModule:
    return OODDataModule(IDSets("train", "train"), root=str(root), batch_size=16)


def unwanted(*_: object, **__: object) -> str:
    raise AssertionError("the images are read")


def replaced(root: Path) -> Path:
    images(root / "train", seed=1, keep=5)  # the 64 images whose pixels are always read may be among those that stay
    return root


def in_place(root: Path) -> Path:
    path = root / "train" / "class1" / "07.bmp"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 128
    path.write_bytes(bytes(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns
    return root


def swapped(root: Path) -> Path:
    one, two, between = root / "train" / "class1", root / "train" / "class2", root / "train" / "between"
    one.rename(between)
    two.rename(one)
    between.rename(two)
    return root


def renamed(root: Path) -> Path:
    (root / "train" / "class3").rename(root / "train" / "class9")
    return root


def moved(root: Path) -> Path:
    return Path(shutil.copytree(root, root.parent / "other"))


@pytest.mark.parametrize("change", [replaced, in_place, swapped, renamed, moved])
@pytest.mark.parametrize("finetune", ["none", "head"])
def test_other_images_are_not_taken_for_the_same(tmp_path: Path, change: Callable[[Path], Path], finetune: str) -> None:
    root, folder = tmp_path / "data", tmp_path / "run"
    images(root / "train")
    for path in (root / "train").rglob("*.bmp"):  # as an archive leaves them: one size, one date
        os.utime(path, (10**9, 10**9))
    assert fit(folder, opened(root), finetune) == ["mds"]
    root = change(root)
    if finetune == "none":
        assert fit(folder, opened(root)) == ["mds"]
        return
    with pytest.raises(InputError, match=r"trained\.ckpt was trained on other images.*--overwrite"):
        fit(folder, opened(root), finetune)


@pytest.mark.parametrize("finetune", ["none", "head"])
def test_the_same_images_are_and_no_file_is_read(
    tmp_path: Path, finetune: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, folder = tmp_path / "data", tmp_path / "run"
    images(root / "train")
    assert fit(folder, opened(root), finetune) == ["mds"]
    with monkeypatch.context() as patch:
        patch.setattr(OODDataModule, "content", unwanted)
        assert fit(folder, opened(root), finetune) == []
    for path in (root / "train").rglob("*.bmp"):
        path.touch()
    assert fit(folder, opened(root), finetune) == [], "other dates, the same pixels"
    with monkeypatch.context() as patch:
        patch.setattr(OODDataModule, "content", unwanted)
        assert fit(folder, opened(root), finetune) == [], "the new dates are stored"
    link = tmp_path / "link"
    link.symlink_to(root)
    assert fit(folder, opened(link), finetune) == [], "the root is resolved"


class Changes(Images):
    """The same labels and size; pixels of another seed where the set is not sampled."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(200)
        self.pixels[1::3] = Images(200, seed=seed).pixels[1::3]


def test_images_that_are_no_files(tmp_path: Path) -> None:
    def data(seed: int) -> OODDataModule:
        return OODDataModule(IDSets(Changes(seed), Images(23, seed=1)), batch_size=16)

    assert fit(tmp_path, data(0)) == ["mds"]
    assert fit(tmp_path, data(0)) == []
    assert fit(tmp_path, data(2)) == ["mds"]


def test_every_pixel_label_and_position_counts() -> None:
    pixels = torch.randn(40, 3, 5, 5)
    labels, index = torch.arange(40) % 3, torch.arange(40)
    none = torch.empty(0, dtype=torch.int64)

    def content(*parts: slice | torch.Tensor, image: torch.Tensor = pixels, label: torch.Tensor = labels) -> str:
        batches = (Batch(image[part], label[part], index[part], none) for part in parts)
        return content_text(torch.stack([pixel_sum(batch) for batch in batches]).sum())

    whole = content(slice(None))
    assert whole == content(slice(30, 40), slice(0, 30)) == content(torch.randperm(40)), "in any order and batches"
    other = pixels.clone()
    other.view(torch.int32)[17, 2, 3, 4] ^= 1
    assert content(slice(None), image=other) != whole
    assert content(slice(None), image=pixels[[1, 0, *range(2, 40)]]) != whole
    crossed = pixels.clone()
    crossed[[0, 1], 0, 0, 0] = pixels[[1, 0], 0, 0, 0]
    assert content(slice(None), image=crossed) != whole
    assert content(slice(None), label=labels.flip(0)) != whole
    assert len({content(slice(i, i + 1)) for i in range(40)}) == 40
