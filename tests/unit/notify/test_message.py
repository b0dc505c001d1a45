"""The text of a notification: its content, and what it never contains."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from retrycli.domain.incidents import Incident, Topic, Turn
from retrycli.domain.message import MessageId
from retrycli.domain.sanitize import inert
from retrycli.notify.notices import (
    HEADLINES,
    Escalated,
    EscalationCause,
    IncidentChange,
    Item,
    Missed,
    NoticeContext,
    trial,
    worded,
)
from retrycli.operations.run_pass import TASKS
from tests.recorded import check

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
HERE = NoticeContext("mill", "https://tickets.example.com/api", NOON, waiting=297, escalated=12)
CAUSE = EscalationCause(12, {"customer": 9, "supplier": 3}, "HTTP 422: recipient unknown", 17, ["4711", "4712"])
CHANGES = [IncidentChange(topic, turn, Incident(NOON - timedelta(hours=9, minutes=15))) for topic, turn in HEADLINES]

MARKUP = "<!channel> <b>x</b> @everyone #general *bold* ~no~ `code` [x](https://evil.example) a|b _so_"
INTERPRETED = set("<>&@#*~`|[]")


def body(*items: Item, around: NoticeContext = HERE) -> str:
    return worded(items, around).body


def test_each_incident_is_described_as_recorded(pytestconfig: pytest.Config) -> None:
    lines = list[str]()
    for change in CHANGES:
        notice = worded([change], HERE)
        is_repeated = change.turn is Turn.LASTS and notice.body == lines[-1]
        lines += [f"== {change.topic} {change.turn}: good news: {notice.good}", notice.title]
        lines += [] if is_repeated else [notice.body]
    check(pytestconfig, "notices", "\n".join(lines) + "\n")


def test_a_short_incident_is_described_by_its_times_or_as_short() -> None:
    told = body(IncidentChange(Topic.CREDENTIALS, Turn.ENDED, Incident(NOON - timedelta(minutes=3))))
    assert "It refused them from 2025-03-03 11:57 UTC until it accepted a message at 2025-03-03 12:00 UTC." in told
    assert "3 min" not in told
    told = body(IncidentChange(Topic.DOWN, Turn.ENDED, Incident(NOON - timedelta(seconds=20))))
    assert "for less than a minute; no message was lost" in told


def test_every_incident_has_a_text_for_every_stage() -> None:
    troubles = set(Topic) - {Topic.ESCALATIONS, Topic.MISSED, Topic.UNHEARD, *TASKS}
    assert set(HEADLINES) == {(topic, turn) for topic in troubles for turn in Turn}


def test_escalations_are_grouped_by_cause_with_counts_tickets_and_the_command() -> None:
    notice = worded([Escalated([replace(CAUSE, count=1, types={"internal": 1}, tickets=["9"]), CAUSE])], HERE)
    assert notice.title == "retrycli on mill: 13 messages need an operator"
    assert notice.body.splitlines() == [
        "13 messages need an operator:",
        "12 × HTTP 422: recipient unknown",
        "    9 customer, 3 supplier; tickets 4711, 4712; retrycli show 17",
        "1 × HTTP 422: recipient unknown",
        "    1 internal; ticket 9; retrycli show 17",
        "Next: retrycli escalations",
    ]
    assert not notice.good


def test_what_is_left_out_is_counted_or_mentioned() -> None:
    assert "40 messages are escalated in total" in body(Escalated([CAUSE]), around=replace(HERE, escalated=40))
    assert "in total" not in body(Escalated([CAUSE]))
    assert "; tickets 30000, …; " in body(Escalated([replace(CAUSE, count=250, tickets=["30000"], more_tickets=True)]))
    assert "1 × no error text" in hostile(None)


def test_long_lists_are_truncated() -> None:
    many = [replace(CAUSE, count=n, tickets=[str(number) for number in range(n)]) for n in range(1, 31)]
    lines = body(Escalated(many)).splitlines()
    assert "tickets 0, 1, 2, 3, 4, …;" in lines[2]
    assert lines[1].startswith("30 × ")
    assert "and 20 other causes" in lines
    assert len(lines) < 30
    hour = timedelta(hours=1)
    gaps = [Missed(NOON - 2 * number * hour, NOON - (2 * number - 1) * hour) for number in range(1000, 0, -1)]
    types = EscalationCause(5000, {f"{'t' * 80}{number}": 1 for number in range(5000)}, "HTTP 422", 17, ["4711"])
    notice = worded([*gaps, Escalated([types] * 1000)], HERE)
    assert notice.body.count("No pass was recorded") == 3
    assert "Earlier gaps without a pass: 997. Next: retrycli passes" in notice.body
    assert len(notice.title) + len(notice.body) < 8000


def test_a_gap_has_both_its_ends() -> None:
    notice = worded([Missed(NOON - timedelta(minutes=90), NOON)], HERE)
    assert notice.title.endswith(": no pass was recorded for 1 h 30 min")
    assert "between 2025-03-03 10:30 UTC and 2025-03-03 12:00 UTC" in notice.body


def test_several_topics_are_one_notification() -> None:
    is_back = IncidentChange(Topic.DOWN, Turn.ENDED, Incident(NOON - timedelta(hours=9)))
    notice = worded([is_back, Escalated([CAUSE])], HERE)
    assert notice.title == "retrycli on mill: the ticketing API is back; 12 messages need an operator"
    assert notice.body.index("accepts messages again") < notice.body.index("12 × HTTP 422")
    assert not notice.good


@pytest.mark.parametrize(
    "error",
    [
        "HTTP 422: ana@example.com is unknown",
        'HTTP 422: "Ana Ruiz" <ana.ruiz+x@example.com> is unknown',
        "550 5.1.1 <chloé@exämple.org>: no such mailbox",
        "Max retries (10) exceeded. Manual intervention required. Last error: HTTP 422: ana@example.com",
    ],
)
def test_contains_no_recipient(error: str) -> None:
    text = body(Escalated([replace(CAUSE, error=error)]))
    assert "example.com" not in text.replace(HERE.destination, "")
    assert not re.search(r"ana[.@]|chlo|exämple", text)


def hostile(
    error: str | None = None, *, ticket: str = "1", kind: str = "customer", host: str = "mill", example: str = "7"
) -> str:
    cause = EscalationCause(1, {kind: 1}, error, MessageId(7, example), [ticket])
    notice = worded([Escalated([cause])], replace(HERE, host=host))
    assert notice.title.isprintable()
    return notice.title + "\n" + notice.body


CLEAN = hostile("x").splitlines()


@pytest.mark.parametrize("where", ["error", "ticket", "kind", "host", "example"])
@pytest.mark.parametrize("text", [MARKUP, "a\r\nBcc: eve@evil.example", "\x1b[31mred\x07", "a\u202eb", "t\tu\x00v"])
def test_outside_text_has_no_markup_no_control_characters_and_one_line(where: str, text: str) -> None:
    said = hostile(text) if where == "error" else hostile("x", **{where: text})
    lines = said.splitlines()
    assert len(lines) == len(CLEAN)
    assert all(line.isprintable() for line in lines)
    assert not INTERPRETED & set(said)
    assert "https://evil" not in said


def test_outside_text_is_truncated() -> None:
    assert (
        max(map(len, hostile("word " * 1000, ticket="9x" * 1000, kind="k" * 1000, example="i" * 1000).splitlines()))
        < 250
    )


def test_a_word_with_an_underscore_is_unchanged() -> None:
    assert inert("cc_emails is not JSON; __so__ _it_ is", 100) == "cc_emails is not JSON; ＿＿so＿＿ ＿it＿ is"


def test_the_test_notification_says_that_nothing_is_wrong() -> None:
    notice = trial("mill\r\nBcc: eve@evil.example")
    assert notice.good
    assert notice.title.startswith("retrycli on mill\\r\\nBcc")
    assert "Nothing is wrong" in notice.body
