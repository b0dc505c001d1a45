"""What a played system keeps of a message, in one form for all of them, so that tests compare the same things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Arrived:
    """One message as the system took it: what counts is what it understood, not what it was sent."""

    id: int
    ticket: str
    text: str
    html: bool = False
    internal: bool = False
    mailed: bool = False
    """Whether the customer gets it by mail too."""
    to: tuple[str, ...] = ()
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    attachments: tuple[tuple[str, str, bytes], ...] = ()
    """Each by its name, type and content."""
    marks: Mapping[str, Any] = field(default_factory=dict)
    """What the sender hung on it for itself, in the place that this system has for it."""
