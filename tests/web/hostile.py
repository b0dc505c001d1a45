"""Hostile rows: markup, addresses of scripts, marks of direction, terminal escapes, and very long texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.application import Application

SCRIPT = "<script>window.takenOver = 1; document.title = 'taken over'</script>"
HOSTILE = (
    f"{SCRIPT}\"'><img src=x onerror=window.takenOver=1> javascript:alert(1) {{{{ 7 * 7 }}}} \u202egnp.exe \x1b[31m\x07"
)
LONG = HOSTILE + "x" * 2_000


def add_hostile(application: Application, number: int) -> None:
    """Add a failed message with hostile texts wherever an application can write them."""
    application.add(
        number,
        recipient_email=HOSTILE,
        cc_emails="[]",
        subject=LONG,
        body=(LONG + "\r\n") * 3 + "y" * 1_000_000,
        last_error=LONG,
    )
