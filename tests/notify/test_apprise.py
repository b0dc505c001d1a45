"""Sending through apprise, to real servers on loopback."""

from __future__ import annotations

import gzip
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrycli.domain.errors import ConfigurationError
from retrycli.notify import apprise
from retrycli.notify.apprise_process import MEMORY
from retrycli.notify.notices import Notice
from tests.channels import TOKEN, Webhook, mail_server, webhook

TITLE = "retrycli on mill: 3 messages need an operator"
BODY = "3 messages need an operator:\n3 × HTTP 422: recipient … unknown\nNext: retrycli escalations"


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as server:
        yield server


@pytest.fixture
def nobody() -> Iterator[str]:
    """Reserve a port that refuses connections."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def send(*urls: str, good: bool = False) -> list[str | None]:
    return list(apprise.send(dict.fromkeys(urls, Notice(TITLE, BODY, good))).values())


def test_a_slack_shaped_webhook_gets_only_title_and_text(hook: Webhook) -> None:
    assert send(hook.slack_shaped) == [None]
    [request] = hook.requests
    assert (request.method, request.path) == ("POST", f"/hooks/{TOKEN}")
    assert request.json["text"].splitlines() == [TITLE, *BODY.splitlines()]
    assert request.json.keys() == {"text", "username"}
    assert request.json["username"] == "retrycli"


@pytest.mark.parametrize(("good", "kind"), [(True, "success"), (False, "warning")])
def test_json_has_the_text_and_whether_it_is_good_news(hook: Webhook, *, good: bool, kind: str) -> None:
    assert send(f"json://{hook.host}/x", good=good) == [None]
    [request] = hook.requests
    assert (request.json["title"], request.json["message"], request.json["type"]) == (TITLE, BODY, kind)


def test_a_mail_has_the_title_as_subject_and_the_text_unchanged() -> None:
    with mail_server() as (mailbox, url):
        assert send(url) == [None]
        [mail] = mailbox.mails
    assert mail["Subject"] == TITLE
    assert mail["To"] == "ops@x.test"
    plain = mail.get_body(("plain",))
    assert plain is not None
    assert BODY in plain.get_content().replace("\r\n", "\n")


def test_an_html_mail_shows_the_text_escaped() -> None:
    with mail_server() as (mailbox, url):
        notice = Notice(TITLE, f'{BODY}\n<b>bold</b> & "so"', good=False)
        assert list(apprise.send({f"{url}&format=html": notice}).values()) == [None]
        [mail] = mailbox.mails
    page = mail.get_body(("html",))
    assert page is not None
    text = page.get_content().replace("&nbsp;", " ")
    assert "recipient … unknown<br/>Next: retrycli escalations<br/>&lt;b&gt;bold&lt;/b&gt; &amp; &quot;so&quot;" in text


def test_each_target_is_independent(hook: Webhook, nobody: str) -> None:
    refused, unknown, accepted = send(f"json://{nobody}/{TOKEN}", f"nosuch://{TOKEN}", hook.slack_shaped)
    assert accepted is None
    assert len(hook.texts) == 1
    assert refused == "not accepted: Connection refused"
    assert unknown == "Apprise does not support this nosuch:// URL, or a package that it needs is missing"


def test_reports_a_status(hook: Webhook) -> None:
    hook.status, hook.text = 403, f"token {TOKEN} was revoked".encode()
    assert send(hook.slack_shaped) == ["not accepted: HTTP 403"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("550 5.1.1 <ops@x.test>: no such mailbox", "not accepted: SMTP 550"),
        ("451 4.3.0 try again", "not accepted: SMTP 451"),
    ],
)
def test_reports_a_mail_servers_answer_by_its_code(answer: str, said: str) -> None:
    with mail_server(answer) as (mailbox, url):
        assert send(url) == [said]
        assert len(mailbox.raw) == 1


def test_reports_a_missing_mail_server_or_extension(nobody: str) -> None:
    assert send(f"mailto://{nobody}?from=a@x.test&to=b@x.test&mode=insecure") == ["not accepted: Connection refused"]
    with mail_server() as (_, url):
        assert send(url.replace("mailto://", "mailto://ann:hush@")) == [
            "not accepted: SMTP AUTH extension not supported"
        ]


def test_a_redirect_is_not_followed(hook: Webhook) -> None:
    hook.status, hook.headers = 302, {"Location": f"http://{hook.host}/elsewhere"}
    assert send(f"json://{hook.host}/x") == ["not accepted: HTTP 302"]
    assert hook.paths == ["/x"]


def test_a_proxy_from_the_environment_is_not_used(hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy could read notifications sent over plain HTTP, and cron's proxy may differ from an operator's."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example.com")
    before = dict(os.environ)
    assert send(f"json://{hook.host}/x") == [None]
    assert dict(os.environ) == before


def test_logs_nothing_and_restores_the_loggers(
    hook: Webhook, nobody: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    hook.status = 500
    known = [logging.getLogger(name) for name in ("apprise", "urllib3", "requests")]
    caplog.set_level(logging.ERROR, logger="apprise")
    before = [(text.handlers, text.propagate, text.level) for text in known]
    with caplog.at_level(logging.DEBUG):
        send(hook.slack_shaped, f"json://user:{TOKEN}@{nobody}/", f"nosuch://{TOKEN}", "mailto://a:b@")
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")
    assert [(text.handlers, text.propagate, text.level) for text in known] == before


def test_shows_only_the_scheme_of_a_url() -> None:
    assert apprise.scheme(f"MMOST://host/{TOKEN}") == "mmost"


def test_names_the_extra_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that sends finds packages where this one does."""
    (tmp_path / "apprise.py").write_text("raise ImportError\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert send("json://127.0.0.1/x") == [apprise.MISSING]


def test_without_targets_nothing_is_sent() -> None:
    """A dead-man switch may be set alone, and `retrycli notify test` tests it."""
    assert send() == []


def test_a_response_that_fills_the_memory_costs_only_its_own_notification(hook: Webhook) -> None:
    with webhook() as hostile:
        hostile.headers = {"Content-Encoding": "gzip"}
        hostile.text = gzip.compress(bytes(MEMORY * 2), compresslevel=1)
        assert send(f"json://{hostile.host}/", hook.slack_shaped) == ["rejected or unreachable", None]


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("mailto://u:p@example.com", ("example.com", 25)),
        ("mailtos://u:p@example.com:465?smtp=mail.example.com", ("mail.example.com", 465)),
        ("mailto://u:p@gmail.com", ("smtp.gmail.com", 587)),
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#general", ("hooks.slack.com", 443)),
        ("json://localhost:8080/x", ("localhost", 8080)),
        ("jsons://chat.example.com/x", ("chat.example.com", 443)),
        ("ntfy://topic", ("ntfy.sh", 443)),
        ("ntfy://chat.example.com/topic", ("chat.example.com", 80)),
        ("tgram://123456789:abcdefg_hijklmnop/12315544", ("api.telegram.org", 443)),
    ],
)
def test_a_targets_place_is_its_mail_server_service_or_host(url: str, place: tuple[str, int]) -> None:
    """The URLs of some services have a token in place of the host, and the token must not be shown."""
    assert apprise.place(url) == place


@pytest.mark.parametrize("url", ["nonsense://s3cret", "slack://s3cret"])
def test_a_url_unknown_to_apprise_has_no_place_and_is_not_quoted(url: str) -> None:
    with pytest.raises(ConfigurationError, match="does not support this") as raised:
        apprise.place(url)
    assert "s3cret" not in str(raised.value)
