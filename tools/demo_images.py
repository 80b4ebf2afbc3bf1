"""Writes three images for the end of ``make demo``: a digit of the test set, an unknown digit, and a photograph.

python -m tools.demo_images runs/digits/images
"""

from __future__ import annotations

import sys
from pathlib import Path

from lightning_ood.data.digits import Digits, Patches


def main(folder: Path) -> None:
    """Writes the images to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    sets = {"digit_3": Digits("test", digits=(3,)), "digit_8": Digits("all", digits=(8,)), "photograph": Patches()}
    for name, images in sets.items():
        images[0][0].save(folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
