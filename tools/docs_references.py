"""The papers of ``docs/references.bib`` as they stand below a detector in ``docs/methods.md``."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

REFERENCES = Path(__file__).parent.parent / "docs" / "references.bib"
_ENTRY = re.compile(r"^% (?P<detectors>[\w, ]+)\n(?P<text>@\w+\{.*?^\})", re.MULTILINE | re.DOTALL)
_ACCENTS = {r"{\"u}": "ü", r"{\"\i}": "ï"}


@cache
def papers() -> list[tuple[set[str], str]]:
    """Returns the detectors of each entry, by class name, and its BibTeX."""
    found = _ENTRY.finditer(REFERENCES.read_text(encoding="utf-8"))
    return [(set(entry["detectors"].split(", ")), entry["text"]) for entry in found]


def field(text: str, name: str) -> str:
    """Returns a field of an entry without braces, or nothing."""
    found = re.search(rf"^  {name} = \{{(.*)\}},$", text, re.MULTILINE)
    value = found[1] if found else ""
    for written, letter in _ACCENTS.items():
        value = value.replace(written, letter)
    return re.sub(r"[{}]", "", value)


def entries(detector: str) -> list[str]:
    """Renders the papers of a detector: authors, venue and year, and BibTeX that unfolds."""
    lines = []
    for text in (text for detectors, text in papers() if detector in detectors):
        names = (name.split(", ") for name in field(text, "author").split(" and "))
        authors = ", ".join(f"{given} {family}" for family, given in names)
        venue = field(text, "booktitle") or field(text, "journal") or "arXiv"
        summary = f"{authors}. {venue}, {field(text, 'year')}. BibTeX"
        lines.append(f"<details><summary>{summary}</summary>\n\n```bibtex\n{text}\n```\n\n</details>\n")
    return lines
