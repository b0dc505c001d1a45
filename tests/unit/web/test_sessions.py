"""The cookie of a session: signed, short-lived, and bound to its token."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.user import Role
from retrycli.operations.tokens import Token, digest
from retrycli.web.sessions import LENGTH, sign, verify

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
KEY = bytes(32)
ANNA = Token("anna", Role.OPERATOR, digest("rcli_anna"), "")
VERA = Token("vera", Role.VIEWER, digest("rcli_vera"), "")
TOKENS = [ANNA, VERA]


@given(st.text(min_size=1, max_size=40).filter(str.isprintable), st.timedeltas(timedelta(0), LENGTH))
def test_a_session_is_its_users_until_it_ends(name: str, later: timedelta) -> None:
    token = Token(name, Role.VIEWER, digest("x"), "")
    cookie = sign(token, KEY, NOW)
    assert (verify(cookie, [VERA, token], KEY, NOW + later) == token) == (later < LENGTH)
    assert cookie.isascii()
    assert not set(cookie) & set(' ",;=\\')


@pytest.mark.parametrize(
    "forged",
    [
        "",
        "...",
        "a.b.c",
        sign(ANNA, KEY, NOW).replace("YW5uYQ", "dmVyYQ"),
        sign(ANNA, KEY, NOW)[:-1],
        sign(ANNA, KEY, NOW) + "0",
        sign(ANNA, KEY, NOW) + ".0",
        sign(ANNA, bytes(31) + b"1", NOW),
        f"YW5uYQ.{'9' * 400}.00",
        "YW5uYQ.-1.00",
        "YW5uYQ.1e9.00",
        "\x80.1.2",
        "YW5uYQ.1772481600.\x80",
    ],
)
def test_a_forged_cookie_is_nobodys(forged: str) -> None:
    assert verify(forged, TOKENS, KEY, NOW) is None


def test_a_later_end_needs_another_signature() -> None:
    name, end, signature = sign(ANNA, KEY, NOW).split(".")
    assert verify(f"{name}.{int(end) - 60}.{signature}", TOKENS, KEY, NOW) is None


def test_removing_or_replacing_the_token_ends_the_session() -> None:
    cookie = sign(ANNA, KEY, NOW)
    assert verify(cookie, [VERA], KEY, NOW) is None
    assert verify(cookie, [Token("anna", Role.OPERATOR, digest("another"), "")], KEY, NOW) is None


def test_a_clock_that_was_ahead_does_not_make_a_longer_session() -> None:
    assert verify(sign(ANNA, KEY, NOW + timedelta(days=30)), TOKENS, KEY, NOW) is None


def test_the_role_is_the_tokens_present_one() -> None:
    demoted = Token("anna", Role.VIEWER, ANNA.sha256, "")
    found = verify(sign(ANNA, KEY, NOW), [demoted], KEY, NOW)
    assert found is not None
    assert found.role is Role.VIEWER
