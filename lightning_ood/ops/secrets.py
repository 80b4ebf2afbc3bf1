"""Keeps secrets out of what a run writes: in their place stands the environment variable that holds them.

A secret is a string under a name such as ``token``, ``key``, ``secret`` or ``password``, the password in a URL, or a
signature in its query. ``token: hf_x`` is saved as ``token: ${HF_TOKEN}`` where a variable holds that value, else as
``token: ${LIGHTNING_OOD_<PATH>}``; either is read back from the environment.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning_ood.errors import InputError

_WORDS = r"token|secret|password|passwd|passphrase|credentials?|(?:api|access|secret|private|auth|account)[_-]?key"
_NAME = re.compile(rf"(?:key|(?:.*[_-])?(?:{_WORDS}))", re.IGNORECASE)
_IN_URL = re.compile(
    r"(?P<before>[a-z][a-z0-9+.-]*://[^\s/:@]*:|[?&](?:\w*token|\w*key|secret|password|sig|(?:[\w-]*-)?signature)=)"
    r"(?P<secret>\$\{\w+\}|(?<=:)[^\s@/]+(?=@)|(?<==)[^\s&#]+)",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_IN_MESSAGE = re.compile(rf"((?:{_WORDS})['\"]?\s*[:=]\s*['\"]?)([^\s'\",}}]+)", re.IGNORECASE)
_LONG = 8  # letters; a shorter value may stand in an environment variable by chance
_known: set[str] = set()  # values that `blank` and `fill_in` have met

Change = Callable[[str, str], str]  # secret, path -> what to write in its place


def is_secret(name: str) -> bool:
    """Returns True if what stands under this name is a secret."""
    return _NAME.fullmatch(name) is not None


def blank(node: Any, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Replaces each secret in nested dicts and lists by the name of an environment variable, in place.

    Args:
        node: of plain values, or a namespace of the parser.
        environment: to look for a variable with the same value; that of the process where None.

    Returns:
        Variable -> secret.
    """
    found: dict[str, str] = {}
    held = {value: name for name, value in (os.environ if environment is None else environment).items()}

    def change(secret: str, path: str) -> str:
        if _VARIABLE.fullmatch(secret):
            return secret
        name = held.get(secret, "") if len(secret) >= _LONG else ""
        if not (is_secret(name) or name.upper().endswith("KEY")):
            name = "LIGHTNING_OOD_" + re.sub(r"\W+", "_", path.replace("init_args.", "")).strip("_").upper()
            while found.get(name, secret) != secret:
                name += "_"
        found[name] = secret
        return f"${{{name}}}"

    _walk(node, change, "")
    _known.update(found.values())
    return found


def fill_in(node: Any) -> None:
    """Replaces ``${VARIABLE}`` where a secret stands by the variable's value, in place.

    Raises:
        InputError: if there is no such variable.
    """

    def change(secret: str, path: str) -> str:
        variable = _VARIABLE.fullmatch(secret)
        if variable is None:
            return secret
        if variable[1] not in os.environ:
            raise InputError(
                f"{path}: the environment variable {variable[1]} is not set; a run writes no secret down: "
                f"set {variable[1]} to the secret, or write it in place of ${{{variable[1]}}}"
            )
        _known.add(os.environ[variable[1]])
        return os.environ[variable[1]]

    _walk(node, change, "")


def without_secrets(node: Any) -> Any:
    """Returns a copy of nested dicts and lists with ``***`` for each secret."""
    if isinstance(node, Mapping):
        copy = {key: without_secrets(value) for key, value in node.items()}
    elif isinstance(node, list):
        return [without_secrets(value) for value in node]
    else:
        return _in_url(node, lambda secret, path: "***", "") if isinstance(node, str) else node
    for key, value in copy.items():
        if is_secret(str(key)) and isinstance(value, str) and value:
            copy[key] = "***"
    return copy


def scrub(message: str) -> str:
    """Returns a message without the secrets that the process has met, and without what looks like one."""
    for secret in sorted(_known, key=len, reverse=True):
        message = message.replace(secret, "***") if len(secret) >= 4 else message
    return _IN_MESSAGE.sub(r"\1***", _in_url(message, lambda secret, path: "***", ""))


def blank_arguments(args: list[str]) -> tuple[list[str], dict[str, str]]:
    """Returns arguments with a variable in place of each secret, and the variables.

    Args:
        args: ``--a.b.token=x``, ``--a.b.token x``, and JSON or YAML in one argument.
    """
    found: dict[str, str] = {}
    out: list[str] = []
    for arg in args:
        name, equals, value = arg.partition("=") if arg.startswith("--") else (out[-1] if out else "", "", arg)
        if not name.startswith("--"):
            out.append(arg)
            continue
        leaf = name.lstrip("-").rpartition(".")[2]
        tree = {name.lstrip("-").rpartition(".")[0]: {leaf: value}}
        if is_secret(leaf) and value:
            found |= blank(tree)
            value = next(iter(tree.values()))[leaf]
        else:
            variables = blank(holder := {name.lstrip("-"): _parsed(value)})
            if variables:
                found |= variables
                changed = holder[name.lstrip("-")]
                value = changed if isinstance(changed, str) else _dumped(changed)
        out.append(f"{name}={value}" if equals else value if not arg.startswith("--") else arg)
    return out, found


@contextmanager
def hidden_arguments(args: list[str]) -> Iterator[list[str]]:
    """Gives arguments without their secrets, which stand in the environment for as long as the context lasts.

    ``sys.argv`` changes alike: loggers write it down, and Lightning starts other processes with it. An
    :class:`InputError` leaves the context without the secrets.
    """
    given, variables = blank_arguments(args)
    argv, before = sys.argv[:], {name: os.environ.get(name) for name in variables}
    if variables:
        sys.argv[1:] = blank_arguments(sys.argv[1:])[0]
        os.environ.update(variables)
    try:
        yield given
    except InputError as error:
        error.args = tuple(scrub(arg) if isinstance(arg, str) else arg for arg in error.args)
        raise
    finally:
        sys.argv[:] = argv
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def _parsed(text: str) -> Any:
    import yaml

    from lightning_ood.ops.plain_yaml import plain_yaml

    if text[:1] not in "{[":
        return text
    try:
        return plain_yaml(text)
    except yaml.YAMLError:
        return text


def _dumped(value: Any) -> str:
    import json

    return json.dumps(value, default=str)


def _walk(node: Any, change: Change, path: str) -> None:
    held = vars(node) if hasattr(node, "__dict__") else node
    if isinstance(held, dict):
        places = list(held.items())
    elif isinstance(held, list):
        places = list(enumerate(held))
    else:
        return
    for key, value in places:
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, str):
            held[key] = change(value, here) if value and is_secret(str(key)) else _in_url(value, change, here)
        elif isinstance(value, dict | list) or hasattr(value, "__dict__"):
            _walk(value, change, here)


def _in_url(text: str, change: Change, path: str) -> str:
    if "://" not in text:
        return text
    return _IN_URL.sub(lambda match: match["before"] + change(match["secret"], f"{path}.password"), text)
