"""Keys of logged values: letters, digits, ``_ . -`` and slashes, which every logger takes as they are."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from lightning_ood.ops.files import name_hash

_OTHERS = re.compile(r"[^-.\w]+", re.ASCII)


def plain(text: str) -> str:
    """Returns ``text`` in ASCII letters, digits, ``_``, ``.``, ``-``: ``%`` becomes ``percent``, the others ``_``."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().replace("%", " percent ")
    return ascii_text if not _OTHERS.search(ascii_text) else _OTHERS.sub("_", ascii_text).strip("_")


def keys(names: Iterable[str]) -> dict[str, str]:
    """Returns name of a set or detector -> its part of a key; two names never share one.

    A name of letters, digits, ``_ . -`` and single slashes is its own. A changed name that is empty or that another
    name has too ends in the hash of the original.
    """
    found = {name: "/".join(filter(None, map(plain, name.split("/")))) for name in names}
    count = Counter(found.values())
    return {
        name: key if name == key or (key and count[key] == 1) else f"{key}-{name_hash(name)}"
        for name, key in found.items()
    }
