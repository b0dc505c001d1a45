"""What a check found: a value, with its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and might better not be so."""
    FAILURE = "failure"
    """Something does not work, or strangers can reach what is ours."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    level: Level
    found: str
    remedy: str | None = None


def well(name: str, found: str) -> Finding:
    """A finding that needs nothing done."""
    return Finding(name, Level.OK, found)


def warning(name: str, found: str, remedy: str) -> Finding:
    """A finding that somebody should look at."""
    return Finding(name, Level.WARNING, found, remedy)


def failure(name: str, found: str, remedy: str) -> Finding:
    """A finding that somebody must look at."""
    return Finding(name, Level.FAILURE, found, remedy)


def of_error(name: str, text: str) -> Finding:
    """A finding from an error in words, which says after a semicolon what to do."""
    found, _, remedy = text.partition("; ")
    return failure(name, found, remedy or "mend it, and run `retrycli doctor` again")


def failed(findings: list[Finding]) -> bool:
    """Whether any of them is a failure."""
    return any(finding.level is Level.FAILURE for finding in findings)
