"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], labels: int = 1, pad: bool = False) -> str:
    """Formats a table whose first columns hold names, left-aligned, and whose others hold numbers, right-aligned.

    Args:
        heads: column titles.
        rows: cells of each row.
        labels: number of columns that hold names.
        pad: pads the cells of a column to one width, for reading in a terminal.

    Returns:
        Lines without a final newline.
    """
    lines = [[text.replace("|", "\\|") for text in line] for line in (heads, *rows)]
    widths = [max(len(line[i]) for line in lines) if pad else 0 for i in range(len(heads))]
    if pad:
        rule = ["-" * width if i < labels else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    else:
        rule = ["---"] * labels + ["---:"] * (len(heads) - labels)
    padded = [
        [
            text.ljust(width) if i < labels else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])
