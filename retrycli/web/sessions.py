"""Sign and verify the cookie with which a browser stays signed in to the console.

The cookie holds the user's name, its end and a signature (HMAC-SHA256) over both and the token's digest. The server
keeps no sessions, so that several workers agree. Removing a token ends its sessions, because the signature no longer
matches any token of that name.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from retrycli.operations.tokens import Token

COOKIE = "retrycli_session"
LENGTH = timedelta(hours=12)


def sign(token: Token, key: bytes, now: datetime) -> str:
    """Return the cookie of a session that begins now."""
    name = base64.urlsafe_b64encode(token.name.encode()).decode().rstrip("=")  # a cookie with = would be quoted
    end = int((now + LENGTH).timestamp())
    return f"{name}.{end}.{_signature(token, end, key)}"


def verify(cookie: str, tokens: Sequence[Token], key: bytes, now: datetime) -> Token | None:
    """Return the token of a session; None if the cookie is invalid, forged or expired, or if the token was removed.

    A session whose end is further ahead than `LENGTH` is not accepted either, because the clock was wrong when it
    began.
    """
    try:
        encoded, end_text, signature = cookie.split(".")
        padded = encoded.encode("ascii") + b"=" * (-len(encoded) % 4)
        name = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
        end = datetime.fromtimestamp(int(end_text), UTC)
    except (ValueError, OverflowError, OSError):
        return None
    if not now < end <= now + LENGTH + timedelta(minutes=1):
        return None
    for token in tokens:
        if token.name == name and hmac.compare_digest(
            _signature(token, int(end.timestamp()), key).encode(), signature.encode("utf-8", "replace")
        ):
            return token
    return None


def _signature(token: Token, end: int, key: bytes) -> str:
    text = f"{len(token.name)}:{token.name}:{end}:{token.sha256}"
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
