"""The identity of a message (birth, digest and delivery key), and the delivery history of a text."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from retrycli.domain.identity import (
    OF_ANY_TICKET,
    UNSTABLE,
    Difference,
    History,
    MessageIdentity,
    PastAttempt,
    birth_of,
    digest_of,
    same_content,
)
from retrycli.store.identity import NAMESPACE, delivery_key

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
ROW = {
    "message_type": "customer",
    "subject": "Re: tea",
    "body": "Is it hot?",
    "attachments": None,
    "recipient_email": "ana@example.com",
    "cc_emails": '["bo@example.com"]',
    "bcc_emails": "[]",
}


@pytest.mark.parametrize("text", ["2025-03-03 12:00:00", "2025-03-03T13:00:00+01:00", "2025-03-03 12:00:00+00"])
def test_one_instant_has_one_birth(text: str) -> None:
    assert birth_of(text) == "2025-03-03T12:00:00.000000+00:00"


def test_a_birth_that_is_not_a_time_is_used_as_it_is() -> None:
    for text in ("infinity", "ticket 12345", ""):
        assert birth_of(text) == text


@pytest.mark.parametrize("column", ROW)
def test_each_column_of_the_text_changes_the_digest_and_only_recipients_keep_the_content(column: str) -> None:
    other = digest_of({**ROW, column: '["other"]'})
    assert other != digest_of(ROW)
    is_recipient = column in {"recipient_email", "cc_emails", "bcc_emails"}
    assert same_content(other, digest_of(ROW)) is is_recipient


@pytest.mark.parametrize(
    "same",
    [
        {"cc_emails": ["bo@example.com"]},
        {"cc_emails": '[ "bo\\u0040example.com" ]'},
        {"attachments": []},
        *({"attachments": text} for text in ("", "[]", "null")),
        {"retry_count": 4, "last_error": "HTTP 500", "status": "sent"},
    ],
)
def test_neither_the_notation_of_a_list_nor_another_column_changes_the_digest(same: dict[str, object]) -> None:
    """PostgreSQL's JSON columns return lists, and SQLite returns text. A missing column counts as NULL."""
    assert digest_of({**ROW, **same}) == digest_of(ROW)
    assert digest_of({name: ROW[name] for name in ROW if name != "attachments"}) == digest_of(ROW)


@pytest.mark.parametrize(
    "other",
    [{"subject": None}, {"subject": ""}, {"subject": "Re: tea;t10:Is it hot?", "body": ""}, {"body": b"Is it hot?"}],
)
def test_adjacent_values_cannot_be_confused(other: dict[str, object]) -> None:
    assert digest_of({**ROW, **other}) != digest_of(ROW)


@pytest.mark.parametrize("value", ["\udce9", "not JSON", "[" * 100_000])
def test_an_invalid_value_has_a_digest_too(value: str) -> None:
    assert digest_of({**ROW, "cc_emails": value, "body": value}) != digest_of(ROW)


def test_a_digest_is_stable_across_versions() -> None:
    """If a new version computed other digests, every text would count as edited after the upgrade."""
    assert digest_of(ROW) == "1:dae31ac7dc6a5c0f4254fd1c5231a729:efa4375e3edd311ea48cc799013cd7b6"


def test_a_delivery_key_is_the_uuid_of_its_parts() -> None:
    for birth in ("2025-03-03T12:00:00.000000+00:00", "ticket café"):
        assert delivery_key(7, birth, "1:a:b", 2) == str(uuid.uuid5(NAMESPACE, f"7/{birth}/1:a:b/2"))


WAS = MessageIdentity("2025", "1:a:b", "7")


@pytest.mark.parametrize(
    ("before", "now", "difference"),
    [
        (WAS, WAS, Difference.NONE),
        (WAS, WAS._replace(digest="1:c:b"), Difference.EDITED),
        (WAS, WAS._replace(ticket="8"), Difference.MOVED),
        (WAS, WAS._replace(birth="2026"), Difference.ANOTHER),
        (MessageIdentity("ticket 7", "1:a:b", "7"), MessageIdentity("ticket 8", "1:a:b", "8"), Difference.MOVED),
        (MessageIdentity("ticket 7", "1:a:b", "7"), MessageIdentity("ticket 8", "1:c:b", "8"), Difference.ANOTHER),
        (MessageIdentity("ticket 7", "1:a:b", "7"), WAS, Difference.NONE),
        (MessageIdentity(UNSTABLE, "1:a:b", "7"), WAS, Difference.NONE),
        (MessageIdentity("ticket 7", "1:a:b", "7"), WAS._replace(digest="1:c:b"), Difference.EDITED),
        (MessageIdentity("ticket 7", "1:a:b", "7"), WAS._replace(ticket="8"), Difference.ANOTHER),
    ],
)
def test_a_row_is_compared_with_its_earlier_state(
    before: MessageIdentity, now: MessageIdentity, difference: Difference
) -> None:
    assert before.difference(now) is difference


def attempt(number: int, outcome: str = "unknown", **others: object) -> PastAttempt:
    at = NOON + timedelta(minutes=number)
    usual: dict[str, Any] = {
        "finished_at": at,
        "status_code": None,
        "by_pass": True,
        "birth": "2025",
        "digest": "1:a:b",
        "delivery_key": "key",
        "deliveries": 0,
        "ticket": "7",
    }
    return PastAttempt(number, at, outcome=outcome, **{**usual, **others})


@pytest.mark.parametrize(
    ("birth", "key", "is_known"),
    [
        ("2025", None, True),
        ("2024", None, False),
        ("2024", "key", True),
        ("ticket 7", None, True),
        ("ticket 8", None, False),
        (OF_ANY_TICKET, None, True),
        (UNSTABLE, None, True),
    ],
)
def test_the_attempts_at_a_message_have_its_birth_its_key_or_a_birth_that_is_not_compared(
    birth: str, key: str | None, *, is_known: bool
) -> None:
    ticket = "8" if birth == "ticket 8" else "7"
    history = History([attempt(1, "delivered", birth=birth, ticket=ticket)]).of("2025", "7", key)
    assert (history.key_of("2025", "1:a:b") == "key") is is_known
    assert history.deliveries("2025", "1:a:b") == is_known


def test_pruned_deliveries_count() -> None:
    history = History([attempt(5, "delivered", deliveries=3)])
    assert history.deliveries("2025", "1:a:b") == 4
    assert history.deliveries("2025", "1:c:b") == history.deliveries("2026", "1:a:b") == 0


def test_a_delivery_before_the_last_requeue_does_not_block_a_text() -> None:
    delivered = attempt(1, "delivered")
    assert History([delivered]).delivered_at("2025", "1:a:b") == delivered.finished_at
    requeued = History([delivered], 1, "1:a:b", "7")
    assert requeued.since_requeue("1:a:b", "7").delivered_at("2025", "1:a:b") is None
    assert requeued.since_requeue("1:a:b", "8").delivered_at("2025", "1:a:b") == delivered.finished_at
    assert requeued.since_requeue("1:c:b", "7").delivered_at("2025", "1:a:b") == delivered.finished_at
    assert History([delivered], 1).since_requeue("1:a:b", "7").delivered_at("2025", "1:a:b") is None


def test_unknown_attempts_count_by_key_and_requests_by_birth_since_the_last_delivery_or_requeue() -> None:
    attempts = [
        attempt(1),
        attempt(2, "delivered"),
        attempt(3),
        attempt(4, delivery_key="other", digest="1:c:b"),
        attempt(5, "unreachable"),
        attempt(6, "throttled"),
        attempt(7, by_pass=False),
        attempt(8, birth="2026"),
    ]
    history = History(attempts)
    assert [History(attempts, number).unknowns("key") for number in (0, 1)] == [4, 3]
    assert (history.requests("2025"), History(attempts, 3).requests("2025"), history.requests("2026")) == (2, 1, 1)


def test_a_text_may_have_arrived_under_another_ticket() -> None:
    assert History([attempt(1)]).elsewhere("2025", "1:a:b", "8") == "7"
    assert History([attempt(1)]).elsewhere("2025", "1:a:b", "7") is None
    assert History([attempt(1, "refused")]).elsewhere("2025", "1:a:b", "8") is None
    assert History([attempt(1)], 1, "1:a:b", "8").since_requeue("1:a:b", "8").elsewhere("2025", "1:a:b", "8") is None
    assert History([attempt(1, birth="ticket 7")]).elsewhere("ticket 8", "1:a:b", "8") == "7"


def test_an_answer_not_yet_written_to_the_row_counts_on_another_ticket() -> None:
    kept = attempt(1, "delivered", birth="ticket 7", finished_at=None)
    assert History([kept]).elsewhere("ticket 8", "1:a:b", "8") == "7"
    assert History([attempt(1, "delivered", birth="ticket 7")]).elsewhere("ticket 8", "1:a:b", "8") is None


def test_a_delivery_not_shown_by_the_row_counts_on_any_ticket_until_a_later_one() -> None:
    unmarked = attempt(1, "delivered", birth=OF_ANY_TICKET)
    assert History([unmarked]).delivered_at("ticket 8", "1:a:b") == unmarked.finished_at
    assert History([unmarked]).delivered_at("2025", "1:a:b") is None
    both = History([unmarked, attempt(2, "delivered", birth="ticket 8", ticket="8", deliveries=1)])
    assert both.delivered_at("ticket 8", "1:a:b") == both.attempts[1].finished_at
    assert both.delivered_at("ticket 9", "1:a:b") is None
    assert [both.deliveries(f"ticket {number}", "1:a:b") for number in (7, 8, 9)] == [1, 2, 1], "no key is used twice"


def test_recipients_have_the_mail_if_its_content_is_the_same() -> None:
    history = History([attempt(1, "transient", delivered_to=frozenset({"ana@x.test"}))])
    assert history.delivered_to("2025", "1:a:other") == {"ana@x.test"}
    assert history.delivered_to("2025", "1:other:b") == history.delivered_to("2026", "1:a:b") == frozenset()
