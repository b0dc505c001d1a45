"""Marked secrets and message texts, and a search for them in any output."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from html import unescape
from urllib.parse import unquote_plus

SECRETS = {
    "database password": "hush/database&key",
    "gateway token": "hushGatewayToken",
    "password": "hush/gateway pass+word",
    "access token": "hushAccessTokenOfTheLogIn",
    "ping URL": "hushPingOfTheSwitch",
    "channel": "hushChannelToken",
    "channel password": "hush/channel@key",
    "proxy password": "hush/proxy=key",
}
"""Secrets that no output may contain. They have no digits, because retrycli groups error texts without their digits."""
WORDS = {
    "body": "murmur, dear customer, the whole of the body",
    "subject": "murmur of a subject line",
    "recipient": "murmur.recipient@customer.example",
    "cc": "murmur.copied@customer.example",
    "bcc": "murmur.blind@customer.example",
    "attachment": "murmur-of-an-attachment.pdf",
}
"""Parts of a message. Only commands that are meant to show them may print them."""
MARKS = SECRETS | WORDS

ENCODED = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
"""A pattern for strings that may be base64, in either alphabet."""


def leaks(text: str) -> set[str]:
    """Return the names of the marks in a text. A mark may be URL-encoded, escaped as in JSON or HTML, or in base64."""
    readings = [text, *_decoded(text)]
    readings += [unquote_plus(reading) for reading in readings]
    readings += [unescape(reading) for reading in readings]
    readings += [re.sub(r"\\(.)", r"\1", reading) for reading in readings]
    return {name for name, mark in MARKS.items() if any(mark in reading for reading in readings)}


def leaking(places: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the places whose texts contain marks, and the names of these marks."""
    return {place: found for place, text in places.items() if (found := leaks(text))}


def _decoded(text: str) -> Iterator[str]:
    """Decode any base64 in a text, from each of the four possible offsets."""
    for found in ENCODED.findall(text):
        plain = found.rstrip("=").translate(str.maketrans("-_", "+/"))
        for start in range(4):
            piece = plain[start:]
            whole = piece[: len(piece) - (len(piece) % 4 == 1)]
            yield base64.b64decode(whole + "=" * (-len(whole) % 4)).decode("latin-1")
