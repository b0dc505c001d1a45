"""A process that was suspended for longer than its time limit does not send its message any more.

Its claim may have expired meanwhile, so that another process has sent the message, or an operator has rejected it.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.gateway.delivery import TOO_LATE
from tests.gateway.deliveries import NOON, PATH
from tests.gateway.hostile import SUCCEEDED, Hostile, answer
from tests.gateway.mail_server import MailServer
from tests.gateway.test_flight import by_http, by_smtp
from tests.gateway.test_only_there import TOKEN


@pytest.mark.parametrize(
    ("seconds", "paths"), [(10, ["/auth/login", PATH]), (10.001, ["/auth/login"])], ids=["within the limit", "after it"]
)
def test_no_request_begins_after_a_suspension_during_the_log_in(seconds: float, paths: list[str]) -> None:
    with Hostile(answer(200, SUCCEEDED), at={"/auth/login": [answer(200, TOKEN)]}) as server:
        outcome = by_http(
            server.url,
            now=lambda: NOON + len(server.requests) * timedelta(seconds=seconds),
            auth="login",
            username="agent",
            password="geheim",
        )
    assert server.paths == paths
    assert (outcome == Outcome(OutcomeKind.UNREACHABLE, error=TOO_LATE)) is (len(paths) == 1)


def test_no_mail_ends_after_a_suspension_during_the_session() -> None:
    with MailServer() as server:
        outcome = by_smtp(server.url, now=lambda: NOON + len(server.peers) * timedelta(hours=1))
    assert (outcome.kind, outcome.error) == (OutcomeKind.TRANSIENT, f"the mail: {TOO_LATE}")
    assert server.mails == []
