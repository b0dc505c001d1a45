"""The API and the console with a table whose keys are UUIDs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from retrycli import load_settings, operations
from retrycli.config.settings import WebSettings
from retrycli.domain.user import Role
from tests.cli.outbox import FAILED, SENT, Outbox
from tests.conftest import on_both, on_sqlite
from tests.web.conftest import API, HOST, Desk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from retrycli.operations.sandbox import Sandbox
    from tests.cli.command import Cli
    from tests.store.conftest import Factory

pytestmark = on_both


@pytest.fixture
def outbox(engine: Factory, tmp_path: Path, cli: Cli) -> Iterator[Outbox]:
    with engine(tmp_path, None) as url:
        made = Outbox(url, tmp_path, cli)
        yield made
        made.application.lock.unlink(missing_ok=True)


@pytest.fixture
def desk(outbox: Outbox, sandbox: Sandbox, tmp_path: Path) -> Desk:
    own = outbox.application.settings(sandbox.url)
    mapped = load_settings(tmp_path / "retrycli.toml").database.model_copy(update={"url": own.database.url})
    web = WebSettings(tokens_file=tmp_path / "tokens.json", allowed_hosts=(HOST,))
    settings = own.model_copy(update={"web": web, "database": mapped})
    roles = {"anna": Role.OPERATOR, "vera": Role.VIEWER}
    operations.table.accept(settings)
    tokens = {name: operations.tokens.add(settings, name, role) for name, role in roles.items()}
    return Desk(outbox.application, settings, tokens)


def test_the_api_names_messages_by_their_keys(outbox: Outbox, desk: Desk) -> None:
    first, second = outbox.add(), outbox.add()
    listed = desk.viewer.get(f"{API}?sort=id").json()["messages"]
    assert [message["id"] for message in listed] == [first, second]
    assert desk.operator.get(f"{API}/{first}").json()["message"]["id"] == first
    assert desk.viewer.get(f"{API}/{first}/explain").json()["id"] == first
    assert desk.operator.post(f"{API}/{first}/retry").json()["results"][0]["id"] == first
    assert [outbox.row(key)["state"] for key in (first, second)] == [SENT, FAILED]
    body = {"action": "reject", "ids": [second], "reason": "x"}
    done = desk.operator.post(f"{API}/scheduler/bulk", json=body).json()
    assert (done["done"], done["refused"], outbox.row(second)["state"] == FAILED) == (1, [], False)
    missing = desk.operator.get(f"{API}/17")
    assert (missing.status_code, missing.json()["detail"].partition(" in ")[0]) == (404, "no message 17")


@on_sqlite
@pytest.mark.parametrize("key", ["a\nb", ".", "..", "~.", "~Li4", "~a", "a/b", "a%2Fb", "../id/b", "a\\b"])
def test_a_message_with_an_unusual_key_can_be_opened_and_sent(outbox: Outbox, desk: Desk, key: str) -> None:
    outbox.add()
    outbox.application.execute('UPDATE "message outbox" SET uid = ?', key)
    browser = desk.browser("anna")
    page = browser.follow(browser.open("/"), "/id/")
    assert "It is attached (1)." in page.words
    assert not re.search(r"%2F|%5C|%25|/\.|\\", page.url)  # a proxy may decode and normalise them
    refused = browser.submit(page, "/reject", reason=" ")
    assert (refused.status, browser.follow(refused, "/id/").url) == (422, page.url)
    browser.submit(page, "/retry")
    assert outbox.row(key)["state"] == SENT
