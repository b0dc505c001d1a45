"""Only the base URL's host is contacted, whatever a preset, a ticket, an answer or the environment says.

A second server, in the role of a stranger, never gets a connection.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from pydantic import ValidationError

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import OutcomeKind
from retrycli.gateway.http.lookup import probe
from tests.gateway.deliveries import NOON, deliver, gateway_settings, preset_file, queued
from tests.gateway.hostile import SUCCEEDED, Hostile, answer

ACCOUNT = {"auth": "login", "username": "agent", "password": "geheim"}
IMPATIENT = {"connect_timeout_seconds": 0.2, "immediate_retries": 0}
TOKEN = json.dumps({"access_token": "t1"}).encode()
NAMES = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
TRICKS = [
    "//{}/",
    "/\\{}/",
    "\\\\{}\\",
    "/@{}/",
    "/..//{}/",
    "/%2F%2F{}/",
    "/http://{}/",
    "/;@{}/",
    "/:80@{}/",
    "/?@{}",
    "/#@{}",
]
"""Paths that some URL parsers interpret as another host."""
REFUSED = ["//{}/", "/\\{}/", "/..//{}/", "/#@{}"]
"""Tricks that are not valid as a path in a preset."""
FROM_A_SLASH = [each for each in TRICKS if each.startswith("/")]


@pytest.fixture
def evil() -> Iterator[Hostile]:
    with Hostile(answer(200, SUCCEEDED)) as server:
        yield server
        assert not server.connections


@pytest.fixture
def good() -> Iterator[Hostile]:
    with Hostile(answer(200, SUCCEEDED), at={"/auth/login": [answer(200, TOKEN)]}) as server:
        yield server


@pytest.mark.parametrize("trick", FROM_A_SLASH)
def test_a_presets_path_stays_on_the_host(trick: str, good: Hostile, evil: Hostile, tmp_path: Path) -> None:
    path = json.dumps(trick.format(f"127.0.0.1:{evil.port}"))
    preset = preset_file(tmp_path, f'[messages.customer]\npath = {path}\nignores = ["cc_emails"]\n')
    with pytest.raises(ConfigurationError, match="outside the base URL") if trick in REFUSED else nullcontext():
        deliver(gateway_settings(good.url, preset=preset))
    assert len(good.requests) == (trick not in REFUSED)


@pytest.mark.parametrize("template", ["/{ticket_id}", "/x{ticket_id}", "/tickets/{ticket_id}/messages"])
@pytest.mark.parametrize("trick", TRICKS)
def test_a_ticket_id_stays_on_the_host(template: str, trick: str, good: Hostile, evil: Hostile, tmp_path: Path) -> None:
    preset = preset_file(tmp_path, f'[messages.customer]\npath = "{template}"\nignores = ["cc_emails"]\n')
    ticket_id = trick.format(f"127.0.0.1:{evil.port}")
    is_refused = ".." in trick  # some servers would go up in the path
    kind = OutcomeKind.PERMANENT if is_refused else OutcomeKind.DELIVERED
    assert deliver(gateway_settings(good.url, preset=preset), queued(ticket_id=ticket_id)).kind is kind
    assert len(good.requests) == (not is_refused)


@pytest.mark.parametrize("trick", FROM_A_SLASH)
def test_a_logins_password_stays_on_the_host(trick: str, good: Hostile, evil: Hostile) -> None:
    settings = gateway_settings(good.url, login_path=trick.format(f"127.0.0.1:{evil.port}"), **ACCOUNT)
    with pytest.raises(ConfigurationError, match=r"gateway\.login_path") if trick in REFUSED else nullcontext():
        deliver(settings)
    assert [b"geheim" in request.body for request in good.requests][:1] == [True] * (trick not in REFUSED)


@pytest.mark.parametrize(
    "base", ["{good}@{evil}", "u:p@{evil}", "{evil}\\@{good}", "{good}\\@{evil}", "{good}#@{evil}"]
)
def test_an_ambiguous_base_url_is_refused(base: str, good: Hostile, evil: Hostile) -> None:
    url = "http://" + base.format(good=f"127.0.0.1:{good.port}", evil=f"127.0.0.1:{evil.port}")
    with pytest.raises((ValidationError, ConfigurationError)):
        deliver(gateway_settings(url))
    assert not good.connections


@pytest.mark.parametrize("trick", [each for each in TRICKS if each.startswith("/") and each[1] not in "?#"])
def test_a_base_urls_path_stays_on_the_host(trick: str, good: Hostile, evil: Hostile) -> None:
    deliver(gateway_settings(good.url + trick.format(f"127.0.0.1:{evil.port}")))
    assert len(good.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_of_a_login_or_probe_are_not_followed(status: int, evil: Hostile) -> None:
    with Hostile(answer(status, headers={"Location": f"{evil.url}/auth/login"})) as server:
        assert deliver(gateway_settings(server.url, **ACCOUNT)).kind is OutcomeKind.UNAUTHORIZED
        asyncio.run(probe(gateway_settings(server.url), now=lambda: NOON))
    assert server.paths == ["/auth/login", "/"]


def test_a_proxy_from_the_environment_is_not_used(
    good: Hostile, evil: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would see the messages and the credentials, if the base URL is plain HTTP."""
    for name in NAMES:
        monkeypatch.setenv(name, evil.url)
    assert deliver(gateway_settings(good.url, **ACCOUNT)).kind is OutcomeKind.DELIVERED
    asyncio.run(probe(gateway_settings(good.url, **ACCOUNT), now=lambda: NOON))
    assert len(good.requests) == 3


def test_an_https_url_is_never_requested_without_tls(good: Hostile) -> None:
    """The server here speaks only plain HTTP, so a fallback to HTTP would deliver the message."""
    for scheme in ("https", "HTTPS"):
        settings = gateway_settings(f"{scheme}://127.0.0.1:{good.port}", **IMPATIENT)
        assert deliver(settings).kind is not OutcomeKind.DELIVERED
    assert not good.requests
