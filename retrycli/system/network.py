"""Test of a network address: connect, close, and send nothing."""

from __future__ import annotations

import socket

WAIT_SECONDS = 5.0


def connect(host: str, port: int) -> str | None:
    """Return why an address can't be reached, without naming it; None if it can."""
    try:
        socket.create_connection((host, port), timeout=WAIT_SECONDS).close()
    except TimeoutError:
        return f"no answer within {WAIT_SECONDS:g} s"
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or type(error).__name__
    return None
