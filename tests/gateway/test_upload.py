"""Files that are uploaded before their message, and logins, each as a form if the system requires one."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from retrycli.domain.outcome import OutcomeKind
from tests.gateway.deliveries import deliver, gateway_settings, preset_file, queued
from tests.gateway.hostile import SUCCEEDED, Hostile, answer
from tests.gateway.ticketing.fake import Asked
from tests.gateway.ticketing.multipart import parts

AHEAD = """
[messages.customer]
path = "/messages"
ignores = ["cc_emails"]
body = { files = { for_each = "attachments", give = { url = "{each.token}", size = "{each.size}" } } }

[upload]
path = "/upload"
query = { type = "attachment" }
token = "0.url"
"""
ANSWER = json.dumps([{"url": "https://files.example.com/1"}]).encode()
BYTES = "Grüße\r\n--\x00".encode()


@pytest.mark.parametrize("form", [True, False])
def test_a_file_is_uploaded_in_a_form_or_as_it_is(form: bool, tmp_path: Path) -> None:  # noqa: FBT001  a parameter of the case
    (tmp_path / 'büro "1".pdf').write_bytes(BYTES)
    preset = preset_file(tmp_path, AHEAD + ('files = "file"\n' if form else 'content_type = "application/binary"\n'))
    message = queued(attachments=json.dumps(['büro "1".pdf']))
    with Hostile(answer(200, SUCCEEDED), at={"/upload?type=attachment": [answer(201, ANSWER)]}) as server:
        settings = gateway_settings(server.url, preset=preset, attachments_dir=tmp_path)
        assert deliver(settings, message).kind is OutcomeKind.DELIVERED
        ahead, sent = server.requests
    assert json.loads(sent.body) == {"files": [{"url": "https://files.example.com/1", "size": len(BYTES)}]}
    if not form:
        assert (ahead.headers["content-type"], ahead.body) == ("application/binary", BYTES)
        return
    [part] = parts(Asked(ahead.method, ahead.path, {}, ahead.headers, ahead.body))
    assert (part.field, part.kind, part.content) == ("file", "application/pdf", BYTES)
    assert 'name="file"; filename="büro %221%22.pdf"'.encode() in ahead.body


OAUTH = """
[auth]
headers = { Authorization = "Bearer {session}" }

[auth.session]
path = "/oauth2/token"
encoding = "form"
body = { grant_type = "client_credentials", client_id = "{username}", client_secret = "{password}" }
token = "access_token"

[messages.customer]
path = "/messages"
ignores = ["cc_emails"]
"""


def test_a_login_may_be_a_form(tmp_path: Path) -> None:
    settings = {"preset": preset_file(tmp_path, OAUTH), "username": "app", "password": 'a&b=ü+ "'}
    with Hostile(answer(200, SUCCEEDED), at={"/oauth2/token": [answer(200, b'{"access_token": "t1"}')]}) as server:
        assert deliver(gateway_settings(server.url, **settings)).kind is OutcomeKind.DELIVERED
        log_in, sent = server.requests
    assert log_in.headers["content-type"] == "application/x-www-form-urlencoded"
    form = {"grant_type": ["client_credentials"], "client_id": ["app"], "client_secret": [settings["password"]]}
    assert parse_qs(log_in.body.decode()) == form
    assert sent.headers["authorization"] == "Bearer t1"
