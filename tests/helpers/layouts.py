"""Small image trees as docs/data.md lays them out, made from what a config names."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

CLASSES = 4


def save(path: Path, seed: int, shift: int = 0, label: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 120, (12, 12, 3)) + 30 * max(label, 0) + shift
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)


def lay_out(node: Any, root: Path, key: str = "", count: int = 8) -> None:
    """Makes every list and folder that a benchmark's ``data:`` names; lists of OOD sets have the label -1."""
    outside = "ood" in key
    seed = zlib.crc32(repr(node).encode())  # each set has images of its own
    if isinstance(node, dict) and "list" in node:
        lines = []
        for i in range(count):
            label = -1 if outside else i % CLASSES
            name = f"{Path(node['list']).stem}/a class/image {i}.png"  # with blanks
            save(root / node["folder"] / name, seed + i, 60 if outside else 0, label)
            lines.append(f"{name} {label}\n")
        path = root / node["list"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines))
    elif isinstance(node, dict) and "class_path" not in node:
        for name, value in node.items():
            if name != "name":
                lay_out(value, root, key or name, count)
    elif isinstance(node, str):
        for i in range(count):
            save(root / node / f"class {i % CLASSES}" / f"image {i}.png", seed + i, 60 if outside else 0, i % CLASSES)


class Downloading(Dataset[tuple[Image.Image, int]]):
    """Stands for torchvision's sets: writes its file where it is missing and it may, as theirs do."""

    def __init__(self, root: str, train: bool = True, split: str = "", download: bool = False, size: int = 8) -> None:
        self.file = Path(root) / "images.npy"
        if download and not self.file.is_file():
            with (Path(root) / "writing").open("x"):  # a second writer at the same time fails here
                pixels = np.random.default_rng(0).integers(0, 255, (size, 12, 12, 3)).astype(np.uint8)
                np.save(self.file, pixels)
            (Path(root) / "writing").unlink()
        if not self.file.is_file():
            raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it")
        self.pixels = np.load(self.file)
        self.targets = [i % CLASSES for i in range(len(self.pixels))]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[index]), self.targets[index]
