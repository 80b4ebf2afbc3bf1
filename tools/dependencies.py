"""Measures what each dependency costs: megabytes on disk and seconds of import. Prints a Markdown table.

python -m tools.dependencies

Megabytes are those of the package's own files. Seconds are the processor time of an import in a fresh process, the
smallest of five; what an import brings along counts, and torch's own import is subtracted where a library imports it.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from tools.lock import ROOT, declared

MODULES = {
    "pillow": "PIL.Image",
    "scikit-learn": "sklearn.datasets",
    "scikit-image": "skimage",
    "huggingface-hub": "huggingface_hub",
    "pyyaml": "yaml",
    "matplotlib": "matplotlib.figure",
    "scipy": "scipy.stats",
    "rich": "rich.console",
    "lightning": "lightning.pytorch",
}
_CODE = """
import sys, time
start = time.process_time()
import {module}
took = time.process_time() - start
print(took, int("torch" in sys.modules and "{module}" != "torch"))
"""


def megabytes(name: str) -> float:
    """Returns the size of an installed package's files in MB."""
    made = distribution(name)
    files = (Path(str(made.locate_file(file))) for file in made.files or ())
    return sum(file.stat().st_size for file in files if file.is_file() and file.suffix != ".pyc") / 1e6


def seconds(module: str, runs: int = 5) -> tuple[float, bool]:
    """Returns the least processor time of an import, in seconds, and whether it imports torch."""
    command = [sys.executable, "-c", _CODE.format(module=module)]
    printed = [
        subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
        for _ in range(runs)
    ]
    return min(float(took) for took, _ in printed), printed[0][1] == "1"


def main() -> None:
    """Prints a row per dependency, largest first."""
    names = sorted({requirement.name for requirement in declared()}, key=megabytes, reverse=True)
    torch, _ = seconds("torch")
    print("| package | MB | import, s |\n| --- | ---: | ---: |")
    for name in names:
        took, brings = seconds(MODULES.get(name.replace("_", "-"), name))
        beside = f"{max(0.0, took - torch):.2f} + torch" if brings else f"{took:.2f}"
        print(f"| {name} | {megabytes(name):.1f} | {beside} |")


if __name__ == "__main__":
    main()
