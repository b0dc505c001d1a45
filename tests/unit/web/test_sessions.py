"""The cookie of a session: signed, short-lived, and bound to its token."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.config.settings import Settings, WebSettings
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.user import Role
from retrycli.operations import tokens
from retrycli.operations.tokens import Token, digest
from retrycli.web.sessions import LENGTH, seal, sign, unseal, verify

NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
KEY = bytes(32)
ANNA = Token("anna", Role.OPERATOR, digest("rcli_anna"), "")
VERA = Token("vera", Role.VIEWER, digest("rcli_vera"), "")
TOKENS = [ANNA, VERA]


@given(st.text(min_size=1, max_size=40).filter(str.isprintable), st.timedeltas(timedelta(0), LENGTH))
def test_a_session_is_its_users_until_it_ends(name: str, later: timedelta) -> None:
    token = Token(name, Role.VIEWER, digest("x"), "")
    cookie = sign(token, KEY, NOW)
    found = verify(cookie, [VERA, token], KEY, NOW + later)
    assert (found is not None and found.token == token) == (later < LENGTH)
    assert cookie.isascii()
    assert not set(cookie) & set(' ",;=\\')


@pytest.mark.parametrize(
    "forged",
    [
        "",
        "..",
        "a.b",
        ".a.b",
        "\x80",
        sign(ANNA, KEY, NOW)[:-1],
        sign(ANNA, KEY, NOW) + "0",
        sign(ANNA, KEY, NOW).rpartition(".")[0],
        sign(ANNA, KEY, NOW).rpartition(".")[0] + "." + sign(VERA, KEY, NOW).rpartition(".")[2],
        sign(ANNA, bytes(31) + b"1", NOW),
        seal(["anna", 1, "00"], KEY, "retrycli_notice"),
    ],
)
def test_a_forged_cookie_is_nobodys(forged: str) -> None:
    assert verify(forged, TOKENS, KEY, NOW) is None


def test_the_tokens_get_the_mode_of_the_lock_that_is_held(tmp_path: Path) -> None:
    """The owner of the folder may put a link to another file in the place of the lock, while root adds a token."""
    settings = Settings(web=WebSettings(tokens_file=tmp_path / "tokens"))
    other, lock = tmp_path / "other", tmp_path / "tokens.lock"
    other.write_text("")
    other.chmod(0o777)

    def swapped() -> datetime:
        lock.unlink()
        lock.symlink_to(other)
        return NOW

    with pytest.raises(ConfigurationError):
        tokens.add(settings, "anna", Role.OPERATOR, now=swapped)  # the key is made under the lock, too
    assert (tmp_path / "tokens").stat().st_mode & 0o7777 == 0o600


def test_each_session_has_its_own_id() -> None:
    first, second = (verify(sign(ANNA, KEY, NOW), TOKENS, KEY, NOW) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.id != second.id
    assert (first.end, first.token) == (second.end, second.token)


@given(st.text())
def test_a_sealed_text_comes_back_only_with_its_seal(text: str) -> None:
    sealed = seal(text, KEY, "notice")
    assert unseal(sealed, KEY, "notice") == text
    assert unseal(sealed, KEY, "session") is None
    assert unseal(sealed, bytes(31) + b"1", "notice") is None
    assert unseal(f"A{sealed}", KEY, "notice") is None
    assert {unseal(forged, KEY, "notice") for forged in ("", ".", text, sealed[:-1], sealed.partition(".")[0])} == {
        None
    }


def test_removing_or_replacing_the_token_ends_the_session_and_another_role_counts_at_once() -> None:
    cookie = sign(ANNA, KEY, NOW)
    assert verify(cookie, [VERA], KEY, NOW) is None
    assert verify(cookie, [Token("anna", Role.OPERATOR, digest("another"), "")], KEY, NOW) is None
    assert verify(sign(ANNA, KEY, NOW + timedelta(days=30)), TOKENS, KEY, NOW) is None, "its clock was ahead"
    found = verify(cookie, [Token("anna", Role.VIEWER, ANNA.sha256, "")], KEY, NOW)
    assert found is not None
    assert found.token.role is Role.VIEWER
