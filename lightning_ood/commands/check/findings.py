"""What a check found: good, doubtful or wrong, each with what it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    """All that was found, in the order of the checks.

    Attributes:
        listed: the lines.
        sets: key of the config -> what is known of the set, in plain values.
        detectors: name -> what the detector needs and costs, in plain values.
        estimate: seconds and bytes of the whole run.
    """

    listed: list[Finding] = field(default_factory=list)
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    detectors: dict[str, dict[str, Any]] = field(default_factory=dict)
    estimate: dict[str, Any] = field(default_factory=dict)

    def add(self, level: Level, topic: str, subject: str, message: str) -> None:
        """Appends a line."""
        self.listed.append(Finding(level, topic, subject, message))

    @contextmanager
    def catching(self, topic: str, subject: str) -> Iterator[None]:
        """Makes an exception a line of the list, so that what comes after it is checked too."""
        try:
            yield
        except InputError as error:
            self.add("error", topic, subject, str(error).removeprefix(f"{subject}: "))
        except Exception as error:  # classes that users name raise whatever they like
            self.add("error", topic, subject, f"{type(error).__name__}: {error}")

    def attempt(self, topic: str, subject: str, call: Callable[[], Any]) -> bool:
        """Calls; whether that went well. An exception becomes a line of the list."""
        before = len(self.listed)
        with self.catching(topic, subject):
            call()
        return len(self.listed) == before

    def count(self, level: Level) -> int:
        """How many lines are of a level."""
        return sum(finding.level == level for finding in self.listed)

    def plain(self) -> dict[str, Any]:
        """Everything in values that JSON knows."""
        return {"ok": self.count("error") == 0, "errors": self.count("error"), "warnings": self.count("warning")} | {
            "findings": [asdict(finding) for finding in self.listed],
            "sets": self.sets,
            "detectors": self.detectors,
            "estimate": self.estimate,
        }
