"""``lightning-ood configs``: the configs that come with the package, and ``pkg:NAME`` on the command line."""

from __future__ import annotations

from pathlib import Path

from lightning_ood.commands.options import OptionParser
from lightning_ood.errors import InputError, close_names

PREFIX = "pkg:"


def folder() -> Path:
    """Returns the folder of the configs: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def names() -> list[str]:
    """Returns the names of all configs, such as ``digits`` and ``detectors/knn``: complete runs first."""
    found = [path.relative_to(folder()).with_suffix("").as_posix() for path in folder().rglob("*.yaml")]
    return sorted(found, key=lambda name: ("/" in name, name))


def locate(name: str) -> Path:
    """Returns the file of a config of the package.

    Args:
        name: its name, with or without ``.yaml``.

    Raises:
        InputError: if there is no such config.
    """
    known, wanted = names(), name.removesuffix(".yaml")
    if wanted not in known:
        near = " or ".join(PREFIX + each for each in close_names(wanted, known))
        raise InputError(f"{PREFIX}{name}: no such config; write {near or 'a name that the command `configs` lists'}")
    return folder() / f"{wanted}.yaml"


def expand(arg: str) -> str:
    """Replaces ``pkg:NAME`` or ``--option=pkg:NAME`` by the path of that config; returns other arguments unchanged."""
    option, equals, value = arg.partition("=") if arg.startswith("--") else ("", "", arg)
    return f"{option}{equals}{locate(value.removeprefix(PREFIX))}" if value.startswith(PREFIX) else arg


def main(args: list[str]) -> None:
    """Lists the configs that come with the package, or prints one of them."""
    parser = OptionParser(prog="train.py configs", description=main.__doc__)
    parser.add_argument("name", nargs="?", help="a config to print, to begin your own from")
    options = parser.parse_args(args)
    if options.name:
        inside = Path(options.name).is_relative_to(folder())  # `pkg:NAME`, which has become a path
        print((Path(options.name) if inside else locate(options.name)).read_text(encoding="utf-8"), end="")
        return
    print(f"Configs in {folder()}; write pkg:NAME for a path, as in fit --config pkg:digits\n")
    for name in names():
        print(f"pkg:{name}")
