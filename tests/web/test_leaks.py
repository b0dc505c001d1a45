"""No log of the server contains a customer's words or a secret, and texts are only where they are meant to be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from retrycli import operations
from tests.cli.command import end, wait_until
from tests.cli.leaks import WORDS, leaks
from tests.conftest import on_sqlite
from tests.web.conftest import API
from tests.web.test_access import requests
from tests.web.test_serve import add_token, is_listening, over, served

if TYPE_CHECKING:
    from pathlib import Path

    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application, Row
    from tests.cli.command import Cli
    from tests.web.conftest import Desk

__all__ = ["served"]

pytestmark = on_sqlite

TEXTS: Row = {"subject": WORDS["subject"], "body": WORDS["body"], "recipient_email": WORDS["recipient"]}
LISTED = {"recipient", "subject"}
SHOWING = {API: LISTED, f"{API}/scheduler/escalations": LISTED, f"{API}/17": {*LISTED, "body"}}
"""What the endpoints show of a message's text, which need the right to read text."""


def test_only_lists_and_the_message_itself_show_its_text(desk: Desk) -> None:
    desk.application.add(17, retry_count=10, last_error="HTTP 500", **TEXTS)  # type: ignore[arg-type]  # columns, by name
    operations.run_pass.run_once(desk.settings)
    for method, path, _ in requests(desk.settings):
        address = path.replace("999", "17")
        answer = desk.viewer(method, address)
        assert leaks(answer.text) == (SHOWING.get(address, set()) if method == "GET" else set()), address


def test_the_servers_log_has_no_text_and_no_token(
    served: Cli, application: Application, sandbox: Sandbox, tmp_path: Path
) -> None:
    application.add(17, **TEXTS)  # type: ignore[arg-type]  # columns, by name
    token, uds = add_token(served), tmp_path / "desk.sock"
    sandbox.behaviour = operations.sandbox.Behaviour(down=True)
    process = served.start("--log-level", "DEBUG", "serve", "--uds", uds)
    with over(uds) as client:
        wait_until(lambda: is_listening(uds), process)
        client.headers["Authorization"] = f"Bearer {token}"
        for path in ("", "/17", "/17/explain", f"?error={WORDS['body']}", "/scheduler/overview"):
            client.get(API + path)
        client.post(f"{API}/17/retry")
        client.patch(f"{API}/17", json={"body": WORDS["body"], "subject": 5})
        client.patch(f"{API}/17", json={"body": WORDS["body"]}, headers={"If-Match": "*"})
        client.post(f"{API}/17/reject", json={"reason": WORDS["subject"] * 1000})
        client.post(f"{API}/17/reject", content=json.dumps(WORDS).encode()[:-1])
        application.path.rename(tmp_path / "away.db")
        assert client.get(f"{API}/17").status_code == 503
        client.get("/messages/id/17")
    process.terminate()
    done = end(process)
    for text in (done.stdout, done.stderr):
        assert leaks(text) == set()
        assert token not in text
