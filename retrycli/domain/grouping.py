"""Groupings of attempts. The command line loads this module before any other of the domain."""

from __future__ import annotations

from enum import StrEnum


class GroupBy(StrEnum):
    """The properties by which attempts are grouped."""

    OUTCOME = "outcome"
    TYPE = "type"
    TICKET = "ticket"
    HOUR = "hour"
    ERROR = "error"
