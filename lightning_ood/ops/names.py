"""Near names for a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def near_names(name: str, names: Iterable[str], count: int = 4, cutoff: float = 0.6) -> list[str]:
    """Returns up to ``count`` of ``names`` that resemble ``name``, the nearest first; case is ignored."""
    by_lower: dict[str, str] = {}
    for other in names:
        by_lower.setdefault(other.lower(), other)
    return [by_lower[match] for match in get_close_matches(name.lower(), by_lower, count, cutoff)]


def suggest(name: str, names: Iterable[str]) -> str:
    """Returns `` (did you mean A or B?)``, to be put into a message, or nothing where no name is near."""
    close = near_names(name, names)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
