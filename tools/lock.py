"""Writes requirements.lock: the versions of everything that the package needs, as installed here and tested.

python -m tools.lock
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements.lock"
_HEADER = "# The versions that were tested together: pip install -r requirements.txt -c requirements.lock\n"
_HEADER += "# Written by `python -m tools.lock`. What torch itself pins for GPUs is left out.\n"
_OF_TORCH = ("nvidia-", "cuda-", "triton")


def declared() -> Iterator[Requirement]:
    """Yields the requirements of the package and of the extras that a checkout runs with."""
    for name in ("core", "digits", "sweep"):
        for line in (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines():
            if text := line.partition("#")[0].strip():
                yield Requirement(text)


def versions(wanted: Iterator[Requirement]) -> dict[str, str]:
    """Returns name -> installed version of requirements and of all that they require in turn."""
    found: dict[str, str] = {}
    queue = [(each, extra) for each in wanted for extra in ("", *each.extras)]
    seen: set[tuple[str, str]] = set()
    while queue:
        requirement, extra = queue.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if (name, extra) in seen or name.startswith(_OF_TORCH):
            continue
        seen.add((name, extra))
        try:
            installed = distribution(name)
        except PackageNotFoundError:  # of another system or Python
            continue
        found[name] = installed.version.partition("+")[0]
        for each in map(Requirement, installed.requires or ()):
            if each.marker is None or each.marker.evaluate({"extra": extra}):
                queue += [(each, inner) for inner in ("", *each.extras)]
    return dict(sorted(found.items()))


if __name__ == "__main__":
    LOCK.write_text(_HEADER + "".join(f"{name}=={version}\n" for name, version in versions(declared()).items()))
