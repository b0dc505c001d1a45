"""The messages that a fake has received, in one form for all systems, so that tests can compare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Arrived:
    """One message as the system understood it, as opposed to what it was sent."""

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
