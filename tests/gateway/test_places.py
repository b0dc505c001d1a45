"""Placeholders in a preset: session tokens, optional credentials, and text that is rendered on arrival."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import OutcomeKind
from retrycli.gateway.http.lookup import probe
from retrycli.gateway.presets.template import fill_text
from tests.gateway.deliveries import NOON, deliver, gateway_settings, preset_file, queued
from tests.gateway.hostile import SUCCEEDED, Hostile, answer

LOGGED_IN = """
[auth.session]
path = "/log-in"
headers = { X-App = "{password|optional}" }
body = { user = "{username}" }
token = "session"

[messages.customer]
path = "/notes"
ignores = ["cc_emails"]
verify = { path = "/note", query = { session = "{session}" }, holds = { path = "there" } }

[look_up]
path = "/notes"
query = { session = "{session}" }
holds = { path = "there", contains = "{delivery_key}" }
settle_seconds = 0
"""


def session(name: str) -> bytes:
    """Return the answer to a login."""
    return json.dumps({"session": name}).encode()


def test_a_look_up_carries_the_current_sessions_token(tmp_path: Path) -> None:
    settings = {"preset": preset_file(tmp_path, LOGGED_IN), "username": "agent", "verify": True}
    answers = {
        "/log-in": [answer(200, session("s1")), answer(200, session("s2"))],
        "/notes?session=s1": [answer(401, b"{}")],
        "/notes?session=s2": [answer(200, b'{"there": ""}')],
        "/note?session=s2": [answer(200, b'{"there": true}')],
    }
    message = queued()._replace(unsettled_since=NOON)
    with Hostile(answer(200, SUCCEEDED), at=answers) as server:
        assert deliver(gateway_settings(server.url, **settings), message).kind is OutcomeKind.DELIVERED
    sessions = ["/log-in", "/notes?session=s1", "/log-in", "/notes?session=s2", "/notes", "/note?session=s2"]
    assert server.paths == sessions


def test_a_path_may_contain_the_session_and_a_credential_may_be_optional(tmp_path: Path) -> None:
    preset = preset_file(tmp_path, LOGGED_IN.replace('"/notes"\nignores', '"/in/{session}/notes"\nignores'))
    with Hostile(answer(200, SUCCEEDED), at={"/log-in": [answer(200, session("s1"))]}) as server:
        assert deliver(gateway_settings(server.url, preset=preset, username="agent")).kind is OutcomeKind.DELIVERED
        assert (server.paths, server.requests[0].headers["x-app"]) == (["/log-in", "/in/s1/notes"], "")
        with pytest.raises(ConfigurationError, match=r"gateway\.username is not set"):
            deliver(gateway_settings(server.url, preset=preset))


@given(st.lists(st.sampled_from(["{", "}", "%", "#", "{{ ticket }}", "{% endverbatim %}", "'", '"', "&", " ", "\n"])))
def test_a_text_survives_djangos_rendering(pieces: list[str]) -> None:
    text = "".join(pieces)
    given_to_it = fill_text("{body|django}", {"body": text})
    assert isinstance(given_to_it, str)
    assert "{%" not in given_to_it  # django-helpdesk encloses each {% in tags before it renders the text
    assert "%}" not in given_to_it
    django = pytest.importorskip("django.template")
    assert django.Engine().from_string(given_to_it).render(django.Context({"ticket": 7})) == text


OURSELVES = """
[auth]
identity = "{username|int}"

[check]
path = "/users/{identity}"

[messages.customer]
path = "/notes"
ignores = ["cc_emails"]
body = { user = "{identity}" }
"""


@pytest.mark.parametrize("auth", [{}, {"auth": "none"}, {"auth": "bearer", "token": "abc"}])
def test_a_message_may_contain_our_user_id(auth: dict[str, str], tmp_path: Path) -> None:
    preset = preset_file(tmp_path, OURSELVES)
    with Hostile(answer(200, SUCCEEDED)) as server:
        settings = gateway_settings(server.url, preset=preset, username="3", **auth)
        assert deliver(settings).kind is OutcomeKind.DELIVERED
        assert asyncio.run(probe(settings, now=lambda: NOON)).outcome.kind is OutcomeKind.DELIVERED
    assert json.loads(server.requests[0].body) == {"user": 3}
    assert server.paths == ["/notes", "/users/3"]


@pytest.mark.parametrize(
    ("username", "why"),
    [(None, "gateway.username is not set"), ("bo", "requires an integer of at most 18 digits, not 'bo'")],
)
def test_our_user_id_is_checked_before_anything_is_sent(username: str | None, why: str, tmp_path: Path) -> None:
    preset = preset_file(tmp_path, OURSELVES)
    with pytest.raises(ConfigurationError, match=why):
        deliver(gateway_settings("http://127.0.0.1:1", preset=preset, username=username))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.txt", OutcomeKind.DELIVERED),
        ("A.TXT", OutcomeKind.DELIVERED),
        ("README", OutcomeKind.DELIVERED),
        ("a.txt.exe", OutcomeKind.INVALID),
    ],
)
def test_a_preset_restricts_file_extensions(name: str, kind: OutcomeKind, tmp_path: Path) -> None:
    text = '[messages.customer]\npath = "/"\nignores = ["cc_emails"]\nencoding = "multipart"\nfiles = "file"\n'
    preset = preset_file(tmp_path, text + 'endings = ["", "txt"]')
    (tmp_path / name).write_text("x")
    with Hostile(answer(200, SUCCEEDED)) as server:
        settings = gateway_settings(server.url, preset=preset, attachments_dir=tmp_path)
        outcome = deliver(settings, queued(attachments=json.dumps([name])))
    assert outcome.kind is kind
    assert ("attachment 1: preset" in (outcome.error or "")) == (kind is OutcomeKind.INVALID)
    assert len(server.requests) == (kind is OutcomeKind.DELIVERED)
