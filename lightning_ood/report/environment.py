"""The environment of a run, and what to cite for it."""

from __future__ import annotations

import ast
import importlib.util
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from lightning_ood.ops.plain_yaml import read_yaml
from lightning_ood.ops.version import VERSION

_SOURCE = 2**20  # bytes of a module whose docstring is read
_PACKAGES = ("torch", "torchvision", "timm", "lightning", "torchmetrics", "numpy", "scipy", "scikit-learn", "pillow")


def environment() -> dict[str, str]:
    """Returns the versions of the code, Python and the numerical libraries, and the machine."""
    import torch

    code = code_version()
    found = {"lightning_ood": code["lightning_ood"]}
    if "commit" in code:
        found["commit"] = code["commit"]
    found["time"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    found["machine"] = f"{platform.platform()}, {_processor()}, {os.cpu_count()} cores"
    found["threads"] = str(torch.get_num_threads())
    if torch.cuda.is_available():
        found["gpu"] = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    found["python"] = platform.python_version()
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):  # e.g. torch built into the system under another name
            found[name] = version(name)
    return found


def papers(config: str, detectors: Iterable[str]) -> list[tuple[str, str]]:
    """Returns citation (title, authors, venue) and link of each detector's paper, from the docstring of its module.

    Args:
        config: config of the run as YAML.
        detectors: names of detectors in the config.
    """
    specs = read_yaml(config, "the config")
    for key in ("scoring", "detectors"):
        specs = specs.get(key) if isinstance(specs, Mapping) else None
    if not isinstance(specs, Mapping):
        return []
    text = yaml.safe_dump([specs[name] for name in detectors if name in specs])
    found: dict[str, str] = {}
    for path in dict.fromkeys(re.findall(r"class_path: ([\w.]+\.\w+)", text)):
        with suppress(Exception):  # a class of the user's that cannot be imported here
            title, link = _cited(_module_of(path))
            found.setdefault(link, title)
    return [(title, link) for link, title in found.items() if link]


def _module_of(path: str) -> str:
    """Returns the module that defines a class, which a package may export: ``lightning_ood.detectors.KNN``."""
    module, _, name = path.rpartition(".")
    return _classes_of(module).get(name, module)


def _spec_of(module: str) -> ModuleSpec | None:
    """Finds a module without importing the packages that it lies in, some of which import torch."""
    top, *below = module.split(".")
    spec = importlib.util.find_spec(top)
    for part in below:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(f"{spec.name}.{part}", list(spec.submodule_search_locations))
    return spec


@cache
def _classes_of(package: str) -> dict[str, str]:
    """Maps the name of each class defined in the files of a package of ours to its module, without importing any."""
    spec = _spec_of(package) if package.split(".")[0] == __name__.split(".")[0] else None
    found: dict[str, str] = {}
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            names = re.findall(r"^class (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
            found |= dict.fromkeys(names, ".".join((package, *parts)).removesuffix(".__init__"))
    return found


def _cited(module: str) -> tuple[str, str]:
    spec = _spec_of(module)
    file = Path(spec.origin) if spec and spec.origin else None
    source = file.read_text(encoding="utf-8") if file and file.is_file() and file.stat().st_size < _SOURCE else ""
    text = " ".join((ast.get_docstring(ast.parse(source)) or "").split())
    cited = re.match(r"(.{,300}?)[ .]*(https?://\S+?)[.,;)]*(\s|$)", text)
    return (f"{cited[1]}.", cited[2]) if cited else ("", "")


def bibtex(found: Mapping[str, str]) -> str:
    """Returns the BibTeX entry of the software.

    Args:
        found: result of ``environment``.
    """
    commit = f",\n  note = {{commit {found['commit'].rstrip('+')}}}" if "commit" in found else ""
    return (
        "@software{lightning_ood,\n  title = {lightning\\_ood: post-hoc out-of-distribution detection},\n"
        "  author = {{lightning\\_ood contributors}},\n"
        f"  version = {{{found.get('lightning_ood', '')}}},\n  year = {{{found.get('time', '')[:4]}}}{commit}\n}}"
    )


def _processor() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return platform.processor() or platform.machine()


def code_version() -> dict[str, str]:
    """Returns the package version and, in a checkout, its commit, with ``+`` where files have changed."""
    version = {"lightning_ood": VERSION}
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):  # installed without its history
        version["commit"] = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return version
