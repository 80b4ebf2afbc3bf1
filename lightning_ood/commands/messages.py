"""Turns what the parser says about an argument into one line: where it is given, what is wrong, what to write."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from traceback import walk_tb
from typing import Any, NamedTuple

from lightning_ood.commands.given import places, unreadable, walk
from lightning_ood.errors import close_names

_FRAME = re.compile(  # lines that hold an error together and say nothing about it
    r"Does not validate against|Subtypes: |Errors:|Given value|Expected a path but|Subclass types expect"
    r"|a class path \(str\)|a dict with|Subclasses are disabled"
)
_KEY = re.compile(r'Parser key "([^"]*)"(?: element \d+)?: ?')
_CLASS = re.compile(r"Problem with given class_path '([^']*)':")
_UNKNOWN = re.compile(
    r"(?:Group '(?P<group>[^']*)' |Subcommand '[^']*' )?(?:does not accept option|Option) '(?P<key>[^']*)'"
)
_MISMATCH = re.compile(r"Expected an? (?!dot import)(.*?)(?:\. Got value: (?P<value>.*))?$")
_REQUIRED = re.compile(r"arguments are required: (.*)")
_NO_NAME = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
_NO_MODULE = re.compile(r"No module named '([\w.]+)'")
_SHORT_NAME = re.compile(r"Expected a dot import path string: (\w+)")
_TYPES = {"NoneType": "null", "dict": "a mapping", "Iterable": "a list", "list": "a list", "bool": "true or false"}
_TYPES |= {"int": "a whole number", "float": "a number", "str": "a text"}
_LONGEST = 400  # characters of a line that is none of the known ones


class _Leaf(NamedTuple):
    """The innermost line of an error, and what stands around it."""

    text: str
    keys: list[str]  # of the parsers around it, the outermost first
    name: str  # class path of the innermost class around it; empty for none
    others: list[str]  # lines beside it, of other types that were tried
    value: str  # that was tried, as it is printed


def one_line(message: str, options: Sequence[str], args: Sequence[str]) -> str:
    """Returns a message of the parser in one line.

    Args:
        message: jsonargparse's, with a line for each type that a value was tried as.
        options: names of all options without their dashes.
        args: the command line, to say which of its files or options is meant.
    """
    if message.startswith("unrecognized arguments: "):
        return near_option(message.removeprefix("unrecognized arguments: ").split()[0], options)
    if (required := _REQUIRED.search(message)) is not None:
        names = re.sub(rf"\b{re.escape(args[0])}\.", "", required[1])
        return f"{names}: give each, in a config (--config FILE) or as an option"
    if "Problems parsing config" in message:
        return _cut(": ".join((*unreadable(args), message.partition("Problems parsing config: ")[2] or message)))
    leaf = _innermost(message)
    if leaf is None:
        return _cut(message)
    if unknown := _UNKNOWN.search(leaf.text):
        return _unknown(".".join(filter(None, unknown.groups())), leaf, options, args)
    where = _place(leaf, args)
    if found := _NO_NAME.search(leaf.text):
        with suppress(Exception):  # a module of the user's
            near = close_names(found[2], [name for name in dir(import_module(found[1])) if not name.startswith("_")])
            return f"{where}: {found[1]} has no {found[2]}{_did_you_mean(near)}"
    if found := _NO_MODULE.search(leaf.text):
        return f"{where}: {leaf.name or leaf.value}: there is no module {found[1]} that Python can import here"
    if found := _SHORT_NAME.search(leaf.text):
        near = close_names(found[1], _classes())
        return f"{where}: there is no class {found[1]}{_did_you_mean(near)}; one of your own is package.module.Class"
    if _MISMATCH.match(leaf.text):
        types = dict.fromkeys(_type(line) for line in (leaf.text, *leaf.others) if _MISMATCH.match(line))
        near = close_names(leaf.value, [word for line in types for word in re.findall(r"[\w-]+", line)])
        return f"{where}: write {', or '.join(types)}, not {_cut(leaf.value, 80)}{_did_you_mean(near)}"
    return _cut(f"{where}: {leaf.text}")


def near_option(option: str, options: Sequence[str]) -> str:
    """Says that an option does not exist, and which are near; ``options`` have no dashes."""
    name = option.partition("=")[0]
    return f"{name}: there is no such option{_did_you_mean(_near_option(name.lstrip('-'), options), '--')}"


def missing_library(error: BaseException, config: Mapping[str, Any]) -> str:
    """Says which object of a config needs a library that is not installed; empty where that is not the error.

    Args:
        error: raised while the objects were built, or from such an error.
        config: all arguments, in plain values.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ImportError):
        cause = cause.__cause__ or cause.__context__
    frames = [frame for frame, _ in walk_tb(cause.__traceback__)] if cause else []
    names = [type(frame.f_locals.get("self")).__name__ for frame in frames if frame.f_code.co_name == "__init__"]
    for path, value in walk(config):
        if path.endswith("class_path") and str(value).rpartition(".")[2] in names:
            first = str(cause).strip().partition("\n")[0]
            return f"{path.removesuffix('.class_path')}: {value} cannot be made: {_cut(first)}"
    return ""


def _cut(text: str, most: int = _LONGEST) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}…"


def _did_you_mean(names: Sequence[str], before: str = "") -> str:
    return f" (did you mean {' or '.join(before + name for name in names[:3])}?)" if names else ""


def _type(line: str) -> str:
    """Returns a type in words, from a line that expects it."""
    text = (_MISMATCH.match(line) or ["", line])[1]
    text = re.sub(r"typing\.Literal\[([^]]*)\]", lambda match: f"one of {match[1]}", text).replace("'", "")
    name = re.sub(r"<class ([\w.]*?)>", lambda match: match[1].rpartition(".")[2], text)
    return _TYPES.get(name, name)


def _innermost(message: str) -> _Leaf | None:
    """Finds the line that got farthest: of the types that a value was tried as, the one that it nearly is."""
    lines: list[tuple[int, str]] = []
    for line in message.splitlines():
        text, depth = line.strip(), len(line) - len(line.lstrip())
        while text.startswith("- "):
            text, depth = text[2:], depth + 2
        if key := _KEY.match(text):
            lines.append((depth, key[0].strip()))
            text, depth = text[key.end() :], depth + 1
        if text:
            lines.append((depth, text))
    said = [i for i, (_, text) in enumerate(lines) if not any(kind.match(text) for kind in (_FRAME, _KEY, _CLASS))]
    if not said:
        return None
    best = max(said, key=lambda i: (lines[i][0], not _MISMATCH.match(lines[i][1]), -i))
    depth, text = lines[best]
    around: list[str] = []
    outer = depth
    for above, line in reversed(lines[:best]):
        if above < outer and (_KEY.match(line) or _CLASS.match(line)):
            around.insert(0, line)
            outer = above
    keys = [match[1] for line in around if (match := _KEY.match(line))]
    classes = [match[1] for line in around if (match := _CLASS.match(line))]
    others = [line for at, line in lines if at == depth and line != text and _MISMATCH.match(line)]
    given = [line.partition("Given value: ")[2] for _, line in lines[best:] if line.startswith("Given value: ")]
    mismatch = _MISMATCH.match(text)
    value = mismatch["value"] if mismatch and mismatch["value"] else (given or [""])[0]
    return _Leaf(text, keys, classes[-1] if classes else "", others, value)


def _unknown(key: str, leaf: _Leaf, options: Sequence[str], args: Sequence[str]) -> str:
    """Says that a key, or an argument of a class, does not exist."""
    word = key.rpartition(".")[2]
    if not leaf.name:
        where = next(places(key, word, args), key)
        return f"{where}: there is no such key{_did_you_mean(_near_option(key, options))}"
    known: list[str] = []
    with suppress(Exception):
        module, _, name = leaf.name.rpartition(".")
        known = [name for name in inspect.signature(getattr(import_module(module), name)).parameters if name != "self"]
    near = close_names(word, known)
    listed = _did_you_mean(near) or f"; its arguments are {', '.join(known) or 'none'}"
    where = next(places(leaf.keys[0] if leaf.keys else "", word, args), ".".join(leaf.keys))
    return f"{where}: {leaf.name.rpartition('.')[2]} has no argument {word!r}{listed}"


def _near_option(name: str, options: Sequence[str]) -> list[str]:
    """Returns the option whose name is nearest, with as many dots; else one whose last part is."""
    parts = name.split(".")
    options = [option for option in options if not option.endswith(".help")]
    last = {option.rpartition(".")[2]: option for option in reversed(options)}
    if parts[0] in last and not any(option.startswith(f"{parts[0]}.") for option in options):
        return [".".join((last[parts[0]], *parts[1:]))]  # its group is missing
    for count in range(len(parts), 0, -1):
        names = [option for option in options if option.count(".") == count - 1]
        near = close_names(".".join(parts[:count]), names, 1)
        if near and near[0] not in name:
            return [".".join((near[0], *parts[count:]))]
    for place, part in enumerate(parts):
        if near := close_names(part, last, 1):
            return [".".join((last[near[0]], *parts[place + 1 :]))]
    return []


def _classes() -> list[str]:
    """Names of the classes that a config may give without their module, as far as they are imported in any case."""
    from lightning.pytorch import callbacks, loggers

    from lightning_ood import detectors, views

    return [*loggers.__all__, *callbacks.__all__, *detectors.list_detectors(), *views.__all__]


def _place(leaf: _Leaf, args: Sequence[str]) -> str:
    """Returns the option, or file and key, that gives a value; the key alone where it is not found."""
    key = leaf.keys[0] if leaf.keys else ""
    words = [leaf.name, leaf.value, leaf.text.rpartition(": ")[2]]
    found = (place for word in words if word for place in places(key, word, args))
    return next(found, ".".join(leaf.keys) or "the arguments")
