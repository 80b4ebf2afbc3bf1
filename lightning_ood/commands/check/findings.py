"""Results of a check as data: one finding per line, and facts about sets, detectors and costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from lightning_ood.errors import InputError

Level = Literal["ok", "warning", "error"]
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One line of the result.

    Attributes:
        level: an error stops ``fit`` or ``test``, or makes their numbers wrong; a warning may be intended.
        topic: sets, duplicates, classes, model, accuracy, detectors, cost or trainer.
        subject: key of the config, or name of the detector.
        message: what was found, and what to do where it is not good.
    """

    level: Level
    topic: str
    subject: str
    message: str


@dataclass
class DetectorFacts:
    """What a detector needs and costs; None where the dry run did not get that far."""

    fit: bool
    extra_forwards: dict[str, int]  # job -> forward passes of each image besides the shared one
    taps: list[str]
    gradients: list[str]  # taps whose gradient is read
    attention: bool
    views: list[str]
    linear_head: bool
    state_bytes: int  # of its sums during the fit
    labels: bool | None = None  # whether its fit needs them
    fitted_bytes: int | None = None
    fit_seconds_per_image: float | None = None
    test_seconds_per_image: float | None = None


@dataclass
class Findings:
    """All findings, in the order of the checks.

    Attributes:
        listed: the findings.
        sets: key of the config -> facts about the set, in plain values.
        detectors: name -> facts about the detector.
        estimate: seconds and bytes of the whole run, in plain values.
    """

    listed: list[Finding] = field(default_factory=list)
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)
    detectors: dict[str, DetectorFacts] = field(default_factory=dict)
    estimate: dict[str, Any] = field(default_factory=dict)

    def add(self, level: Level, topic: str, subject: str, message: str) -> None:
        """Appends a finding."""
        self.listed.append(Finding(level, topic, subject, message))

    @contextmanager
    def catching(self, topic: str, subject: str) -> Iterator[list[str]]:
        """Turns an exception into an error finding, so that later checks still run.

        Yields:
            a list that is empty on success; after a failure it holds the message.
        """
        failures: list[str] = []
        try:
            yield failures
        except Exception as error:  # classes that users name raise whatever they like
            kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
            failures.append(kind + str(error).removeprefix(f"{subject}: "))
            self.add("error", topic, subject, failures[0])

    def attempt(self, topic: str, subject: str, call: Callable[..., T], *arguments: Any) -> T | None:
        """Returns what a function returns; None where it raises, which becomes an error finding."""
        result: T | None = None
        with self.catching(topic, subject):
            result = call(*arguments)
        return result

    def collect(self, topic: str, subject: str, findings: Iterable[Finding]) -> None:
        """Appends what a check yields; an exception that it raises becomes an error finding."""
        self.attempt(topic, subject, self.listed.extend, findings)

    def errors(self, topic: str) -> set[str]:
        """Returns the subjects that have an error of a topic."""
        return {finding.subject for finding in self.listed if (finding.level, finding.topic) == ("error", topic)}

    def count(self, level: Level) -> int:
        """Returns the number of findings of a level."""
        return sum(finding.level == level for finding in self.listed)

    def plain(self) -> dict[str, Any]:
        """Returns everything as plain values for JSON; unknown facts about a detector are left out."""
        detectors = {name: asdict(facts).items() for name, facts in self.detectors.items()}
        return {
            "ok": self.count("error") == 0,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "findings": [asdict(finding) for finding in self.listed],
            "sets": self.sets,
            "detectors": {name: {k: v for k, v in facts if v is not None} for name, facts in detectors.items()},
            "estimate": self.estimate,
        }
