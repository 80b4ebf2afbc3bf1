"""What PyTorch says of a file that it refuses to read, without its advice to read the file with its code."""

from __future__ import annotations

import re

_OBJECT = re.compile(r"GLOBAL (\S+)|[Uu]nsupported (?:global|class) (\S+)|module (\S+) is blocked")
_ADVICE = re.compile(r"weights[_ -]only", re.IGNORECASE)


def refused_object(error: Exception) -> str | None:
    """Returns the Python object that a file holds beside tensors; None if it was refused for another reason."""
    found = _OBJECT.search(str(error))
    return None if found is None else next(filter(None, found.groups())).rstrip(".,:'\"")


def reason(error: Exception) -> str:
    """Returns the first line of an error, or a plain sentence where it advises to run what the file holds."""
    text = str(error)
    if _ADVICE.search(text):
        return "its pickle is damaged, or asks for more than tensors and plain values"
    return (text.splitlines() or [type(error).__name__])[0]
