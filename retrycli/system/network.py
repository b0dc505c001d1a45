"""Whether somebody listens at a place: a connection is made and closed, and nothing is said."""

from __future__ import annotations

import socket

WAIT_SECONDS = 5.0


def connect(host: str, port: int) -> str | None:
    """Why nobody can be reached there; None where somebody can. No word of it names the place."""
    try:
        socket.create_connection((host, port), timeout=WAIT_SECONDS).close()
    except TimeoutError:
        return f"no answer within {WAIT_SECONDS:g} s"
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or type(error).__name__
    return None
