"""Findings of a check as data: level, topic, subject and message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lightning_ood.errors import InputError

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One line of the list.

    Attributes:
        level: an error stops ``fit`` or ``test``, or makes their numbers wrong; a warning may be meant so.
        topic: sets, duplicates, classes, model, accuracy, detectors, cost or trainer.
        subject: the config's key, or the detector's name.
        message: what was found, and what to do where it is not good.
    """

    level: Level
    topic: str
    subject: str
    message: str


@dataclass
class Findings:
    """All findings, in the order of the checks.

    Attributes:
        listed: the lines.
        sets: key of the config -> facts about the set, in plain values.
        detectors: name -> what the detector needs and costs, in plain values.
        estimate: seconds and bytes of the whole run.
    """

    listed: list[Finding] = field(default_factory=list)
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    detectors: dict[str, dict[str, Any]] = field(default_factory=dict)
    estimate: dict[str, Any] = field(default_factory=dict)

    def add(self, level: Level, topic: str, subject: str, message: str) -> None:
        """Appends a finding."""
        self.listed.append(Finding(level, topic, subject, message))

    @contextmanager
    def catching(self, topic: str, subject: str) -> Iterator[None]:
        """Turns an exception into an error finding, so that later checks still run."""
        try:
            yield
        except InputError as error:
            self.add("error", topic, subject, str(error).removeprefix(f"{subject}: "))
        except Exception as error:  # classes that users name raise whatever they like
            self.add("error", topic, subject, f"{type(error).__name__}: {error}")

    def count(self, level: Level) -> int:
        """Returns the number of findings of a level."""
        return sum(finding.level == level for finding in self.listed)

    def plain(self) -> dict[str, Any]:
        """Returns everything as plain values for JSON."""
        return {"ok": self.count("error") == 0, "errors": self.count("error"), "warnings": self.count("warning")} | {
            "findings": [asdict(finding) for finding in self.listed],
            "sets": self.sets,
            "detectors": self.detectors,
            "estimate": self.estimate,
        }
