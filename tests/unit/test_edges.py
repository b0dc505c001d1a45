"""Regression tests for unusual input: each case has failed before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from retrycli.config.loader import Loaded, load
from retrycli.domain.circuit_breaker import Breaker, BreakerRules
from retrycli.domain.errors import ConfigurationError, InvalidMessage
from retrycli.domain.message import Message, QueuedMessage
from retrycli.domain.outcome import Outcome, OutcomeKind, parse_retry_after
from retrycli.domain.retry_policy import LATEST, Backoff, BackoffKind, RetryPolicy, exhausted

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
SECRET = "hush-hush"
DOWN = Outcome(OutcomeKind.TRANSIENT, 503, "HTTP 503")


def row(**c: object) -> dict[str, object]:
    return {
        "id": 7,
        "ticket_id": 1,
        "message_type": "customer",
        "subject": "s",
        "body": "b",
        "status": "failed",
        "retry_count": 0,
        "last_error": None,
    } | c


def read(folder: Path, toml: str = "", **env: str) -> Loaded:
    (folder / "c.toml").write_text(toml)
    return load(folder / "c.toml", env)


@pytest.mark.parametrize("name", ["username", "password", "token"])
def test_a_secret_file_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    loaded = read(tmp_path, f'[gateway]\n{name}_file = "secret"\n')
    value = getattr(loaded.settings.gateway, name)
    assert (value if name == "username" else value.get_secret_value()) == SECRET
    assert loaded.sources[f"gateway.{name}"] == f"file {tmp_path / 'secret'}"


@pytest.mark.parametrize(
    "variable",
    ["RETRYCLI_GATWAY__TOKEN", "RETRYCLI_GATEWAY__NO__SUCH", "RETRYCLI_SCHEDULE__TYPES__VENDOR__FACTOR", "RETRYCLI_"],
)
def test_an_unknown_section_in_a_variable_is_named(tmp_path: Path, variable: str) -> None:
    with pytest.raises(ConfigurationError, match=variable):
        read(tmp_path, **{variable: "2"})


def test_an_unknown_section_is_named_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"c\.toml"):
        read(tmp_path, "[speed]\nlimit = 4\n")


@pytest.mark.parametrize(
    "toml",
    [
        "[schedule]\njitter = 1\n",
        '[schedule]\nbackoff = "list"\nwaits_minutes = [5, 60]\njitter = 1\n',
        "[schedule]\njitter = 0.99\n",
    ],
)
def test_a_long_wait_that_jitter_moves_into_the_slack_is_refused(tmp_path: Path, toml: str) -> None:
    with pytest.raises(ConfigurationError, match="must be longer than"):
        read(tmp_path, toml)


def test_expires_after_hours_has_an_upper_bound(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        read(tmp_path, "[schedule]\nexpires_after_hours = 1e300\n")


@pytest.mark.parametrize("value", ['["\\ud800@example.com"]', ["\ud800@example.com"], '[{"\\ud800": 1}]'])
def test_a_surrogate_in_a_list_is_refused(value: object) -> None:
    with pytest.raises(InvalidMessage, match="cc_emails is not valid UTF-8"):
        Message.from_row(row(cc_emails=value))


@pytest.mark.parametrize("value", [1712011500123, 20240101])
def test_a_number_is_not_a_time(value: int) -> None:
    with pytest.raises(InvalidMessage, match="created_at is not a valid date"):
        Message.from_row(row(created_at=value))


@pytest.mark.parametrize("count", [10**12, 2**63 - 1])
def test_a_huge_linear_retry_count_does_not_overflow(count: int) -> None:
    q = QueuedMessage(Message.from_row(row(retry_count=count, created_at=NOON)), "k", NOON)
    RetryPolicy(Backoff(BackoffKind.LINEAR)).decide(q, DOWN, since=NOON, now=NOON, jitter=0)


def test_a_retry_after_near_the_year_9999_does_not_overflow() -> None:
    q = QueuedMessage(Message.from_row(row()), "k", NOON)
    step = RetryPolicy().decide(
        q, Outcome(OutcomeKind.TRANSIENT, 503, "x", timedelta(hours=6)), since=LATEST, now=LATEST, jitter=0
    )
    assert step.next_attempt_at == LATEST


def test_a_probe_near_the_year_9999_does_not_overflow() -> None:
    b = Breaker("d")
    for ticket in "12345":
        b = b.after(OutcomeKind.TRANSIENT, BreakerRules(), since=LATEST, ticket=ticket)


def test_a_closed_breaker_has_no_opening_time() -> None:
    b = Breaker("d").rest(NOON)
    b = b.after(OutcomeKind.TRANSIENT, BreakerRules(), since=NOON + timedelta(hours=1), ticket="1")
    assert b.opened_at is None


def test_an_outage_after_a_rest_begins_when_the_breaker_opens() -> None:
    b = Breaker("d").rest(NOON)
    for ticket in "12345":
        b = b.after(OutcomeKind.TRANSIENT, BreakerRules(), since=NOON + timedelta(hours=1), ticket=ticket)
    assert b.opened_at == NOON + timedelta(hours=1)


@pytest.mark.parametrize("kind", [OutcomeKind.DELIVERED, OutcomeKind.TRANSIENT])
def test_a_rest_survives_answers_of_requests_in_flight(kind: OutcomeKind) -> None:
    b = Breaker("d").rest(NOON + timedelta(hours=1)).after(kind, BreakerRules(), since=NOON, ticket="1")
    assert b.blocks(NOON + timedelta(minutes=15))


def test_failures_in_flight_are_not_probes() -> None:
    b = Breaker("d")
    for ticket in "12345678":
        b = b.after(OutcomeKind.TRANSIENT, BreakerRules(), since=NOON, ticket=ticket)
    assert b.probe_at == NOON + timedelta(minutes=15)


def test_a_linear_message_created_in_the_future_is_not_delayed() -> None:
    q = QueuedMessage(Message.from_row(row(retry_count=8, created_at=NOON + timedelta(days=365))), "k", NOON)
    step = RetryPolicy(Backoff(BackoffKind.LINEAR)).decide(q, DOWN, since=NOON, now=NOON, jitter=0)
    assert step.next_attempt_at == NOON + timedelta(minutes=15)


@pytest.mark.parametrize(
    "url",
    [
        "https://h/api?",
        "https://h/api#",
        " https://h/api",
        "https://h/api ",
        "https://h/api\r",
        "https://h o/api",
        "https://h/a\nb",
    ],
)
def test_an_unusual_base_url_is_normalised_or_refused(tmp_path: Path, url: str) -> None:
    try:
        kept = read(tmp_path, RETRYCLI_GATEWAY__BASE_URL=url).settings.gateway.base_url
    except ConfigurationError:
        return
    assert kept == "https://h/api"


@pytest.mark.parametrize("url", ["https://ann:hush/hush@h", "https://h\u2100ann:hush@x"])
def test_a_base_url_error_does_not_show_the_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read(tmp_path, RETRYCLI_GATEWAY__BASE_URL=url)
    assert "hush" not in str(raised.value)


def test_the_database_password_is_not_in_the_repr(tmp_path: Path) -> None:
    assert SECRET not in repr(read(tmp_path, RETRYCLI_DATABASE__URL=f"postgresql://app:{SECRET}@db/app"))


@pytest.mark.parametrize(
    "toml",
    ["[run]\nlimit = " + "1" * 5000, "x = " + "[" * 100000, '[gateway]\ntoken_file = "a\\u0000b"'],
    ids=["digits", "deep", "nul"],
)
def test_unusual_toml_is_named(tmp_path: Path, toml: str) -> None:
    with pytest.raises(ConfigurationError):
        read(tmp_path, toml)


@pytest.mark.parametrize("name", ["a\\b", "a\\1b", "a\\qb"])
def test_a_backslash_in_a_directory_name_is_kept(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    assert read(folder, '[database]\nurl = "sqlite:///x.db"\n').settings.database.url == f"sqlite:///{folder}/x.db"


def test_an_empty_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        read(tmp_path, RETRYCLI_GATEWAY__TOKEN="", RETRYCLI_GATEWAY__AUTH="bearer")


def test_a_message_type_cannot_override_the_slack(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        read(tmp_path, "[schedule.types.supplier]\ndue_slack_seconds = 3600\n")


def test_retry_after_may_have_leading_zeros() -> None:
    assert parse_retry_after("00000000000000000120", NOON) == timedelta(seconds=120)


def test_the_fixed_text_has_its_own_limit_before_a_similar_error() -> None:
    assert exhausted(10, "Max retries (3) of upstream used up").startswith("Max retries (10) exceeded.")


@pytest.mark.parametrize("c", [{"ticket_id": True}, {"ticket_id": "  "}, {"cc_emails": "[NaN]"}])
def test_invalid_tickets_and_lists_are_refused(c: dict[str, object]) -> None:
    with pytest.raises(InvalidMessage):
        Message.from_row(row(**c))


def test_a_wait_of_zero_without_slack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        read(tmp_path, "[schedule]\nbase_minutes = 1e-300\ndue_slack_seconds = 0\n")
