"""By what attempts can be counted: known to the command line, which loads nothing more than that to begin with."""

from __future__ import annotations

from enum import StrEnum


class GroupBy(StrEnum):
    """What attempts have in common."""

    OUTCOME = "outcome"
    TYPE = "type"
    TICKET = "ticket"
    HOUR = "hour"
    ERROR = "error"
