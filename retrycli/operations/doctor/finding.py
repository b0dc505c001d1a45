"""The finding of a check, with its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    """It works, but should be changed."""
    FAILURE = "failure"
    """Something does not work, or strangers can reach retrycli's data."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    name: str
    level: Level
    found: str
    remedy: str | None = None


def well(name: str, found: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(name, Level.OK, found)


def warning(name: str, found: str, remedy: str) -> Finding:
    """Return a finding that an operator should look at."""
    return Finding(name, Level.WARNING, found, remedy)


def failure(name: str, found: str, remedy: str) -> Finding:
    """Return a finding that an operator must act on."""
    return Finding(name, Level.FAILURE, found, remedy)


def of_error(name: str, text: str) -> Finding:
    """Return a failure from an error text of the form "problem; remedy"."""
    found, _, remedy = text.partition("; ")
    return failure(name, found, remedy or "fix it, and run `retrycli doctor` again")


def failed(findings: list[Finding]) -> bool:
    """Return whether any finding is a failure."""
    return any(finding.level is Level.FAILURE for finding in findings)
