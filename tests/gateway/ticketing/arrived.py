"""The messages that a fake has received, in one form for all systems, so that tests can compare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Arrived:
    """A message as the system understood it, which may differ from the request."""

    id: int
    ticket: str
    text: str
    html: bool = False
    internal: bool = False
    mailed: bool = False
    """Whether the system also mails the message."""
    to: tuple[str, ...] = ()
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    attachments: tuple[tuple[str, str, bytes], ...] = ()
    """The name, type and content of each attachment."""
    marks: Mapping[str, Any] = field(default_factory=dict)
    """Metadata that the sender attached for its own use, such as the delivery key."""
