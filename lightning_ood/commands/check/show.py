"""Prints the findings in the terminal: green, yellow and red."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_ood.commands.check.cost import size
from lightning_ood.commands.check.findings import Findings

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "bold red")}


def show(found: Findings) -> None:
    """Prints a line for each finding, by topic, and a table of the detectors."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for topic in dict.fromkeys(finding.topic for finding in found.listed):
        console.print(Text(topic.capitalize(), style="bold"))
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(width=2, justify="right")
        table.add_column(max_width=34, overflow="fold")
        table.add_column(overflow="fold")
        for finding in found.listed:
            if finding.topic == topic:
                mark, style = _MARKS[finding.level]
                words = style if finding.level != "ok" else ""
                table.add_row(Text(mark, style=style), Text(finding.subject), Text(finding.message, style=words))
        console.print(table)
    if found.detectors:
        console.print(_detectors(found))
    errors, warnings = found.count("error"), found.count("warning")
    style = "bold red" if errors else "yellow" if warnings else "green"
    message = ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in ((errors, "error"), (warnings, "warning")))
    console.print(Text(message, style=style))


def _detectors(found: Findings) -> Table:
    table = Table(title="What the detectors need", box=None, padding=(0, 1, 0, 0))
    for name in ("detector", "fit", "labels", "extra passes", "reads", "sums", "fitted", "fit ms", "test ms"):
        table.add_column(name, justify="left" if name in ("detector", "reads") else "right", overflow="fold")
    for name, facts in found.detectors.items():
        passes = ", ".join(f"{count} {job}" for job, count in facts["extra_forwards"].items() if count)
        taps = [
            f"{tap} (gradient)" if tap in facts["gradients"] else tap
            for tap in dict.fromkeys(facts["taps"] + facts["gradients"])
        ]
        table.add_row(
            name,
            "yes" if facts["fit"] else "",
            {True: "yes", False: "", None: "?"}[facts.get("labels")],
            passes,
            ", ".join([*taps, *(["attention"] if facts["attention"] else [])]),
            size(facts["state_bytes"]) if facts["fit"] else "",
            size(facts["fitted_bytes"]) if "fitted_bytes" in facts else "",
            *(f"{1000 * facts.get(f'{job}_seconds_per_image', 0):.3f}" for job in ("fit", "test")),
        )
    return table
