"""Sign and verify the cookies of the console: the session of a user, and the result of a form.

The cookie of a session holds the user's name, its end, a random id, and a signature (HMAC-SHA256) over these and the
token's digest. The server keeps no sessions, only those from which users have signed out, so that several workers
agree. Removing a token ends its sessions, because the signature no longer matches any token of that name.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from starlette.requests import HTTPConnection

from retrycli.operations.tokens import Token

COOKIE = "retrycli_session"
LENGTH = timedelta(hours=12)
ID_BYTES = 12


class ValidSession(NamedTuple):
    """A valid session."""

    token: Token
    end: int  # a Unix time
    id: str


def cookie_name(name: str, request: HTTPConnection, path: str) -> str:
    """Return the name of a cookie for a path. Over TLS it has a prefix, with which browsers let no other host and no
    unencrypted page set the cookie (RFC 6265bis, section 4.1.3).
    """
    if request.url.scheme != "https":
        return name
    return f"__Host-{name}" if path == "/" else f"__Secure-{name}"


def sign(token: Token, key: bytes, now: datetime) -> str:
    """Return the cookie of a session that begins now."""
    end, session = int((now + LENGTH).timestamp()), secrets.token_hex(ID_BYTES)
    return f"{_encoded(token.name.encode())}.{end}.{session}.{_signature(token, end, session, key)}"


def verify(cookie: str, tokens: Sequence[Token], key: bytes, now: datetime) -> ValidSession | None:
    """Return the session of a cookie; None if the cookie is invalid, forged or expired, or if the token was removed.

    A session whose end is further ahead than `LENGTH` is not accepted either, because the clock was wrong when it
    began.
    """
    try:
        encoded, end_text, session, signature = cookie.split(".")
        name = _decoded(encoded).decode()
        end = datetime.fromtimestamp(int(end_text), UTC)
    except (ValueError, OverflowError, OSError):
        return None
    if not now < end <= now + LENGTH + timedelta(minutes=1):
        return None
    for token in tokens:
        expected = _signature(token, int(end.timestamp()), session, key)
        if token.name == name and hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
            return ValidSession(token, int(end.timestamp()), session)
    return None


def seal(text: str, key: bytes) -> str:
    """Return a text for a cookie, with a signature."""
    payload = _encoded(text.encode())
    return f"{payload}.{hmac.new(key, payload.encode(), hashlib.sha256).hexdigest()}"


def unseal(cookie: str, key: bytes) -> str | None:
    """Return the text of `seal`; None if the cookie does not come from this server."""
    payload, _, signature = cookie.encode("utf-8", "replace").rpartition(b".")
    expected = hmac.new(key, payload, hashlib.sha256).hexdigest()
    return _decoded(payload.decode()).decode() if hmac.compare_digest(expected.encode(), signature) else None


def _encoded(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode().rstrip("=")  # a cookie with = would be quoted


def _decoded(text: str) -> bytes:
    padded = text.encode("ascii") + b"=" * (-len(text) % 4)
    return base64.b64decode(padded, altchars=b"-_", validate=True)


def _signature(token: Token, end: int, session: str, key: bytes) -> str:
    text = f"{len(token.name)}:{token.name}:{end}:{session}:{token.sha256}"
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
