"""ImageNet's class identifiers (WordNet synsets such as ``n01440764``) in words, from the table that timm ships."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SYNSET = re.compile(r"n\d{8}")


def synset_words(names: Iterable[str]) -> dict[str, str]:
    """Returns synset -> its first name (``tench``) for the names that timm's table of ImageNet has."""
    synsets = [name for name in names if _SYNSET.fullmatch(name)]
    if not synsets:
        return {}
    from timm.data import ImageNetInfo

    tables = [ImageNetInfo(subset) for subset in ("imagenet-22k", "imagenet-1k")]
    known = {name: table.label_name_to_description(name) for table in tables for name in table.label_names()}
    return {name: known[name].partition(",")[0] for name in synsets if name in known}
