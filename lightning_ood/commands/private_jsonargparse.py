"""What the package uses of jsonargparse that jsonargparse does not document; tests/test_private.py checks it."""

from __future__ import annotations

import re
from argparse import Action
from typing import Any

import yaml
from jsonargparse import DefaultHelpFormatter, _loaders_dumpers, get_loader, set_loader

from lightning_ood import detectors, views
from lightning_ood.errors import close_names
from lightning_ood.ops.plain_yaml import plain_yaml

LONGEST = 12  # classes that the help of an argument lists; there are 90 data sets and hundreds of modules
_SUBCLASSES = re.compile(r", known subclasses: ((?:[\w.]+, )*[\w.]+)")
_KEY = re.compile(r'Parser key "(scoring\.detectors[^"]*)"')
_NO_MODULE = re.compile(r"Import path ([\w.]+) does not correspond to a subclass of Module")
_NO_CLASS = re.compile(r"Expected a dot import path string: (\w+)$", re.MULTILINE)


class HelpFormatter(DefaultHelpFormatter):
    """Lists every detector by its short name, and other classes that an argument takes only if they are few."""

    def _get_help_string(self, action: Action) -> str:
        is_detectors = action.dest == "scoring.detectors"
        most = 0 if is_detectors else LONGEST  # jsonargparse knows those that are imported, here all are named
        text = _SUBCLASSES.sub(
            lambda match: match[0] if match[1].count(",") < most else "", super()._get_help_string(action)
        )
        if is_detectors:
            text += (
                f". Detectors: {', '.join(detectors.list_detectors())}; or a class of your own, package.module.Class"
            )
        return text


def option_names(parser: Any) -> list[str]:
    """Returns the names of all options of a parser, without their dashes."""
    return [name.removeprefix("--") for name in parser._option_string_actions if name.startswith("--")]


_load = get_loader("yaml")


def bound_yaml() -> None:
    """Makes jsonargparse refuse YAML whose aliases stand for more than a config can hold."""

    def bounded(text: str) -> Any:
        return plain_yaml(text, _load)

    set_loader("yaml", bounded, (yaml.YAMLError,))
    _loaders_dumpers.yaml_load = bounded  # for a value that is tried as several types


def unknown_class(message: str) -> str | None:
    """Turns the parser's message about a class path that is none into one sentence: a short name, or a factory.

    Args:
        message: the parser's, with one line for each type that a value was tried as.

    Returns:
        The sentence, with the names that exist; None if the message is about something else, or about an argument that
        takes neither detector nor network.
    """
    if (factory := _NO_MODULE.search(message)) is not None:
        return (
            f"model.network: {factory[1]} is neither a class of torch.nn.Module nor a function that is known to return "
            "one; write the return type of a function, as in `def make(...) -> torch.nn.Module:`"
        )
    key, names = _KEY.search(message), _NO_CLASS.findall(message)
    if key is None or not names:
        return None
    near = (
        " or ".join(close_names(names[-1], [*detectors._modules(), *views.__all__]))
        or f"one of {', '.join(detectors.list_detectors())}"
    )
    return f"{key[1]}: there is no class {names[-1]}; write {near}, or a class of your own as package.module.Class"
