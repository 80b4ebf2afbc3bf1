"""Prints the findings in the terminal: green, yellow and red."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_ood.commands.check.cost import size
from lightning_ood.commands.check.findings import DetectorFacts, Findings

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "bold red")}
_COLUMNS = ("detector", "fit", "labels", "extra passes", "reads", "sums", "fitted", "fit ms", "test ms")


def show(found: Findings) -> None:
    """Prints a line for each finding, by topic, and a table of the detectors."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for topic in dict.fromkeys(finding.topic for finding in found.listed):
        console.print(Text(topic.capitalize(), style="bold"))
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(width=2, justify="right")
        table.add_column(max_width=34, overflow="fold")
        table.add_column(overflow="fold")
        for finding in (finding for finding in found.listed if finding.topic == topic):
            mark, style = _MARKS[finding.level]
            message = Text(finding.message, style="" if finding.level == "ok" else style)
            table.add_row(Text(mark, style=style), Text(finding.subject), message)
        console.print(table)
    if found.detectors:
        facts_table = Table(title="What the detectors need", box=None, padding=(0, 1, 0, 0))
        for name in _COLUMNS:
            facts_table.add_column(name, justify="left" if name in ("detector", "reads") else "right", overflow="fold")
        for name, facts in found.detectors.items():
            facts_table.add_row(name, *_cells(facts))
        console.print(facts_table)
    errors, warnings = found.count("error"), found.count("warning")
    style = "bold red" if errors else "yellow" if warnings else "green"
    counts = ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in ((errors, "error"), (warnings, "warning")))
    console.print(Text(counts, style=style))


def _cells(facts: DetectorFacts) -> list[str]:
    taps = dict.fromkeys(facts.taps + facts.gradients)
    reads = [f"{tap} (gradient)" if tap in facts.gradients else tap for tap in taps]
    return [
        "yes" if facts.fit else "",
        {True: "yes", False: "", None: "?"}[facts.labels],
        ", ".join(f"{count} {job}" for job, count in facts.extra_forwards.items() if count),
        ", ".join([*reads, *(["attention"] if facts.attention else [])]),
        size(facts.state_bytes) if facts.fit else "",
        "" if facts.fitted_bytes is None else size(facts.fitted_bytes),
        *(f"{1000 * (seconds or 0):.3f}" for seconds in (facts.fit_seconds_per_image, facts.test_seconds_per_image)),
    ]
