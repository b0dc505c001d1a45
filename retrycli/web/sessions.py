"""The console's signed cookies: the session of a user, and the result of a form.

The server keeps no sessions, only those from which users have signed out, so that several workers agree. Removing a
token ends its sessions, because they name the token's digest.
"""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from itsdangerous import BadData, URLSafeSerializer
from starlette.requests import HTTPConnection

from retrycli.operations.tokens import Token

COOKIE = "retrycli_session"
LENGTH = timedelta(hours=12)
ID_BYTES = 12
PURPOSE = "session"


class ValidSession(NamedTuple):
    """A valid session."""

    token: Token
    end: int  # a Unix time
    id: str


def cookie_name(name: str, request: HTTPConnection, path: str) -> str:
    """Return the name of a cookie for a path. Over TLS it has a prefix, with which browsers let no unencrypted page set
    the cookie and, if the path is the root, no other host of the domain (RFC 6265bis, section 4.1.3).
    """
    if request.url.scheme != "https":
        return name
    return f"__Host-{name}" if path == "/" else f"__Secure-{name}"


def cookie_settings(name: str, request: HTTPConnection, path: str) -> dict[str, Any]:
    """Return the arguments that set or delete a cookie for a path."""
    return {
        "key": cookie_name(name, request, path),
        "path": path,
        "secure": request.url.scheme == "https",
        "httponly": True,
        "samesite": "lax",
    }


def cookie_of(name: str, request: HTTPConnection, path: str) -> str:
    """Return the value of a cookie for a path, as the browser sent it. Return an empty string without one, or with
    several: a host beside this one may have set the other, to let the user work in its own session.

    Not `request.cookies`, which unquotes the values of all cookies in quadratic time before Python 3.12.6
    (CVE-2024-7592): one header from a stranger could stop the server for seconds. Sealed values need no quotes. Names
    keep other white space, such as U+00A0, with which another host could hide a prefix from browsers.
    """
    wanted = cookie_name(name, request, path)
    parts = (part.strip(" \t") for header in request.headers.getlist("cookie") for part in header.split(";"))
    pairs = (part.partition("=") for part in parts)
    values = [value for key, _, value in pairs if key == wanted]
    return values[0] if len(values) == 1 else ""


def sign(token: Token, key: bytes, now: datetime) -> str:
    """Return the cookie of a session that begins now."""
    end, session = int((now + LENGTH).timestamp()), secrets.token_hex(ID_BYTES)
    return seal([_fingerprint(token), end, session], key, PURPOSE)


def verify(cookie: str, tokens: Sequence[Token], key: bytes, now: datetime) -> ValidSession | None:
    """Return the session of a cookie; None if the cookie is invalid, forged or expired, or if the token was removed.

    A session whose end is further ahead than `LENGTH` is not accepted either, because the clock was wrong when it
    began.
    """
    latest = (now + LENGTH + timedelta(minutes=1)).timestamp()
    match unseal(cookie, key, PURPOSE):
        case [str(fingerprint), int(end), str(session)] if now.timestamp() < end <= latest:
            token = next((token for token in tokens if _fingerprint(token) == fingerprint), None)
            return None if token is None else ValidSession(token, end, session)
    return None


def seal(value: object, key: bytes, purpose: str) -> str:
    """Return the cookie of a JSON value. It is signed for its purpose, and anybody can read it."""
    return str(_serializer(key, purpose).dumps(value))


def unseal(cookie: str, key: bytes, purpose: str) -> object:
    """Return the value of a cookie; None if it was not signed with this key for this purpose."""
    try:
        value: object = _serializer(key, purpose).loads(cookie)
    except BadData:
        return None
    return value


def _serializer(key: bytes, purpose: str) -> URLSafeSerializer:
    signing = {"digest_method": hashlib.sha256, "key_derivation": "hmac"}
    return URLSafeSerializer(key, salt=purpose, signer_kwargs=signing)


def _fingerprint(token: Token) -> str:
    """Return what a cookie may say of a token's digest."""
    return hashlib.sha256(token.sha256.encode()).hexdigest()
