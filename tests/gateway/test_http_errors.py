"""`retrycli.from_http_error`: errors of httpx and requests, each raised by a real request to a server on loopback."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import requests

import retrycli
from retrycli.domain.outcome import Outcome, OutcomeKind
from tests.gateway.hostile import Hostile, answer, close, closed_port, silence
from tests.gateway.senders import deliver, new, sender

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UNREACHABLE, UNKNOWN = OutcomeKind.UNREACHABLE, OutcomeKind.UNKNOWN


def with_httpx(url: str, **how: Any) -> None:  # noqa: ANN401
    httpx.post(url, json={"body": "hello"}, timeout=how.pop("timeout", 30), **how).raise_for_status()


def with_requests(url: str, **how: Any) -> None:  # noqa: ANN401
    follows = how.pop("follow_redirects", False)
    how = {"timeout": 30, **how}
    answer = requests.post(url, json={"body": "hello"}, allow_redirects=follows, **how)
    answer.raise_for_status()
    if answer.is_redirect:  # as the manual says
        raise requests.HTTPError(response=answer)


LIBRARIES = pytest.mark.parametrize("post", [with_httpx, with_requests])


def outcome_of(post: Callable[..., None], url: str, **how: Any) -> Outcome:  # noqa: ANN401
    with pytest.raises((httpx.HTTPError, requests.RequestException)) as caught:
        post(url, **how)
    return retrycli.from_http_error(caught.value).outcome


@LIBRARIES
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, OutcomeKind.PERMANENT),
        (302, OutcomeKind.PERMANENT),
        (401, OutcomeKind.UNAUTHORIZED),
        (403, OutcomeKind.PERMANENT),
        (404, OutcomeKind.PERMANENT),
        (408, OutcomeKind.TRANSIENT),
        (429, OutcomeKind.THROTTLED),
        (500, OutcomeKind.TRANSIENT),
        (503, OutcomeKind.TRANSIENT),
    ],
)
def test_a_status_means_what_it_means_to_a_preset(post: Callable[..., None], status: int, kind: OutcomeKind) -> None:
    with Hostile(answer(status, b"customer's words", {"Retry-After": "90", "Location": "/"})) as server:
        outcome = outcome_of(post, server.url)
    in_doubt = status in {302, 400, 403, 404}
    assert outcome == Outcome(kind, status, f"HTTP {status}", timedelta(seconds=90), in_doubt=in_doubt)


@LIBRARIES
def test_a_wait_until_a_date_counts_by_the_receivers_clock(post: Callable[..., None]) -> None:
    dates = {"Date": "Mon, 03 Mar 2025 12:00:00 GMT", "Retry-After": "Mon, 03 Mar 2025 12:05:00 GMT"}
    with Hostile(answer(429, headers=dates)) as server:
        assert outcome_of(post, server.url).retry_after == timedelta(minutes=5)


@LIBRARIES
def test_only_a_connection_that_was_never_made_delivered_certainly_nothing(post: Callable[..., None]) -> None:
    with closed_port() as port:
        assert outcome_of(post, f"http://127.0.0.1:{port}/secret").kind is UNREACHABLE
    assert outcome_of(post, "http://name.invalid").kind is UNREACHABLE
    with Hostile(close) as server:
        assert outcome_of(post, server.url).kind is UNKNOWN
    with Hostile(silence) as server:
        assert outcome_of(post, server.url, timeout=0.3).kind is UNKNOWN


@LIBRARIES
def test_an_earlier_error_proves_nothing_about_this_one(post: Callable[..., None]) -> None:
    """An application may try a second server when the first can't be reached."""
    with closed_port() as port, Hostile(close) as server:
        try:
            post(f"http://127.0.0.1:{port}")
        except (httpx.HTTPError, requests.RequestException):
            assert outcome_of(post, server.url).kind is UNKNOWN


@LIBRARIES
@pytest.mark.parametrize(("status", "then"), [(301, 401), (302, 429), (303, 503), (303, "refused")])
def test_an_error_of_the_page_after_a_redirect_says_nothing_about_the_message(
    post: Callable[..., None], status: int, then: int | str
) -> None:
    """A form that was taken is often answered with a redirect to a page, which a client asks for by GET."""
    with closed_port() as port, Hostile(answer(then if isinstance(then, int) else 200)) as page:
        there = f"http://127.0.0.1:{port}" if then == "refused" else page.url
        with Hostile(answer(status, headers={"Location": there})) as server:
            outcome = outcome_of(post, server.url, follow_redirects=True)
            assert len(server.requests) == 1
    assert (outcome.kind, outcome.in_doubt, outcome.retry_after) == (UNKNOWN, False, None)


@LIBRARIES
def test_a_redirect_that_repeats_the_message_is_followed(post: Callable[..., None]) -> None:
    with (
        Hostile(answer(429, headers={"Retry-After": "90"})) as second,
        Hostile(answer(307, headers={"Location": second.url})) as server,
    ):
        outcome = outcome_of(post, server.url, follow_redirects=True)
    assert (outcome.kind, outcome.retry_after) == (OutcomeKind.THROTTLED, timedelta(seconds=90))


def test_an_error_without_a_known_cause_may_have_arrived() -> None:
    """Other transports use httpx's names also for a connection that broke after the request."""
    for error in (httpx.ConnectError("reset"), requests.ConnectionError(), ValueError("words")):
        outcome = retrycli.from_http_error(error).outcome
        assert outcome == Outcome(UNKNOWN, error=type(error).__name__)


def test_a_sender_raises_it(tmp_path: Path) -> None:
    code = """import httpx, retrycli
def send(message):
    try:
        httpx.post(message.fields["subject"]).raise_for_status()
    except httpx.HTTPError as error:
        raise retrycli.from_http_error(error) from error
"""
    with Hostile(answer(403)) as server:
        outcome = deliver(sender(tmp_path, code), new(subject=server.url))
    assert (outcome.kind, outcome.status_code, outcome.in_doubt) == (OutcomeKind.PERMANENT, 403, True)
