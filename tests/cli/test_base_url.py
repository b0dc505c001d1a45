"""A base URL that the transport refuses is an invalid setting: it uses up no retries and escalates no message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import on_both

if TYPE_CHECKING:
    from tests.cli.application import Application
    from tests.cli.command import Cli, Finished

pytestmark = on_both

REFUSED = ("http://127.1:8080", "http://10.0.0", "http://127.0.0.1.:80", "https://2130706433", "http://1.2.3.4.5/api")
"""URLs that httpx can parse but that aiohttp can't connect to."""
MESSAGES = 3


def check_refused(done: Finished, key: str, url: str) -> None:
    """Check that one error line names the invalid setting and its value."""
    assert (done.returncode, done.stdout) == (78, "")
    [line] = done.stderr.splitlines()
    assert key in line
    assert url in line


@pytest.mark.parametrize("url", REFUSED)
def test_nothing_is_charged_for_an_invalid_base_url(cli: Cli, application: Application, url: str) -> None:
    first, *_ = application.add_due(MESSAGES)
    before = application.rows()
    at_work = cli.having(application.variables(url))
    for command in ("config check", "run-once", f"retry {first}"):
        check_refused(at_work(*command.split()), "gateway.base_url", url)
    assert application.rows() == before
    assert {queued["state"] for queued in application.rows("retrycli_queue").values()} == {"waiting"}
    assert application.rows("retrycli_attempts") == {}


def test_one_invalid_gateway_of_several_stops_them_all(cli: Cli, at_work: Cli, application: Application) -> None:
    """A valid gateway of one type must not hide an invalid one of another type."""
    application.add_due(MESSAGES)
    own = at_work.having({"RETRYCLI_GATEWAY__INTERNAL__BASE_URL": REFUSED[0]})
    check_refused(own("config", "check"), "gateway.internal.base_url", REFUSED[0])
    check_refused(own("run-once"), "gateway.internal.base_url", REFUSED[0])
    assert application.rows("retrycli_attempts") == {}
