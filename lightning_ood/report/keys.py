"""Keys of logged values: letters, digits, ``_ . -`` and slashes, which every logger takes as they are."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from lightning_ood.report.table import FULL_SPECTRUM

_OTHERS = re.compile(r"[^-.\w]+", re.ASCII)


def plain(text: str) -> str:
    """Returns ``text`` in ASCII letters, digits, ``_``, ``.``, ``-``: ``%`` becomes ``percent``, the others ``_``."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().replace("%", " percent ")
    return ascii_text if not _OTHERS.search(ascii_text) else _OTHERS.sub("_", ascii_text).strip("_")


def keys(names: Iterable[str]) -> dict[str, str]:
    """Returns name of a set or detector -> its part of a key; two names never share one.

    A name of letters, digits and ``_ . -`` is its own, after ``fs/`` of a full-spectrum set. A changed name that is
    empty or that another name has too ends in the hash of the original.
    """
    marks = {name: FULL_SPECTRUM if name.startswith(FULL_SPECTRUM) else "" for name in dict.fromkeys(names)}
    found = {name: mark + plain(name.removeprefix(mark)) for name, mark in marks.items()}
    count = Counter(found.values())
    return {
        name: key if name == key or (key != marks[name] and count[key] == 1) else f"{key}-{_hash(name)}"
        for name, key in found.items()
    }


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
