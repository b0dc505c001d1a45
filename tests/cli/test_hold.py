"""``pause`` and ``resume`` with options: operators hold a part of the queue, and passes send the rest."""

from __future__ import annotations

import re
import shlex
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.command import COLUMNS
from tests.conftest import on_both

if TYPE_CHECKING:
    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = on_both

CUSTOMER, SUPPLIER, INTERNAL = 5, 6, 7
"""The due messages that `Application.fill_due` adds, by type. Their tickets are 4705, 4706 and 4707."""
WAIT = ("next_attempt_at", "delivery_key", "state", "unknown_count")


def sent(application: Application) -> set[object]:
    return {key for key, row in application.rows().items() if row["status"] == "sent"}


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ("--message 5", {CUSTOMER}),
        ("--message 5 --message 7", {CUSTOMER, INTERNAL}),
        ("--ticket 4706", {SUPPLIER}),
        ("--type customer --type internal", {CUSTOMER, INTERNAL}),
        ("--message 5 --ticket 4706", {CUSTOMER, SUPPLIER}),
        ("--destination URL", {CUSTOMER, SUPPLIER, INTERNAL}),
        ("--ticket 4799", set()),
    ],
)
def test_a_pass_sends_everything_but_what_is_held_until_it_is_resumed(
    at_work: Cli, application: Application, sandbox: Sandbox, options: str, left: set[int]
) -> None:
    application.fill_due()
    words = options.replace("URL", sandbox.url).split()
    assert at_work("pause", *words).returncode == 0
    assert at_work.json("run-once")["sent"] == 3 - len(left)
    assert sent(application) == {CUSTOMER, SUPPLIER, INTERNAL} - left
    assert at_work("resume", *words).returncode == 0
    assert at_work.json("run-once")["sent"] == len(left)
    assert sent(application) == {CUSTOMER, SUPPLIER, INTERNAL}


def test_a_held_message_keeps_its_wait_its_count_and_its_key(at_work: Cli, application: Application) -> None:
    application.add(13, retry_count=4, hours_ago=48)
    assert at_work("pause", "--message", "13").returncode == 0
    found = []
    for _ in range(2):
        assert at_work.json("run-once")["sent"] == 0
        queued = application.rows("retrycli_queue")[13]
        found.append((application.row(13), {name: queued[name] for name in WAIT}))
    assert found[0] == found[1]
    assert application.row(13)["retry_count"] == 4


def test_the_dry_run_leaves_out_held_messages_and_counts_them(at_work: Cli, application: Application) -> None:
    """Message 11 is in the queue; the pass would enrol the others."""
    application.add(11)
    at_work("pause", "--type", "customer")
    assert at_work.json("run-once")["sent"] == 0
    application.fill_due()
    at_work("pause", "--ticket", "4706")
    found = at_work.json("run-once", "--dry-run")
    assert ([message["id"] for message in found["would_send"]], found["withheld"]) == ([7], 3)
    screen = at_work.on_terminal("run-once", "--dry-run")
    assert "3 due messages would not be sent now, because of a hold or a closed delivery window: see" in screen.words
    at_work("pause", "--type", "internal")
    assert "not due yet" not in at_work.on_terminal("run-once", "--dry-run").words
    assert at_work.json("status")["messages"]["due"] == 0


def test_a_second_hold_of_the_same_part_replaces_the_first_and_says_so(at_work: Cli, application: Application) -> None:
    application.add(17)
    screen = at_work.on_terminal("pause", "--message", "17", "--for", "2h", "--by", "anna", "--reason", "wrong price")
    assert re.search(r"Held until [-0-9]{10} [0-9:+-]+: message 17, 1 waiting message\.\n", screen.text)
    [hold] = application.rows("retrycli_holds").values()
    began, until = (datetime.fromisoformat(str(hold[name])) for name in ("since", "until"))
    assert until - began == timedelta(hours=2)
    second = at_work("pause", "--message", "017", "--by", "bob")
    assert re.fullmatch(
        r"retrycli: this replaces the hold of message 17 by anna until [-0-9]{10}T[0-9:]{8}Z: wrong price\n",
        second.stderr,
    )
    [hold] = application.rows("retrycli_holds").values()
    assert (hold["until"], hold["reason"], hold["by"]) == (None, None, "bob")


def test_the_history_has_each_hold_with_its_operator(at_work: Cli, application: Application) -> None:
    application.add(17)
    at_work("pause", "--message", "17", "--ticket", "4711", "--reason", "wrong price", "--by", "anna")
    at_work("resume", "--message", "17", "--by", "bob")
    pauses: list[dict[str, Any]] = at_work.json("passes")["pauses"]
    assert [(entry["by"], entry["act"], entry["detail"]) for entry in pauses] == [
        ("bob", "resumed", "the hold of message 17 by anna until resumed: wrong price"),
        ("anna", "held", "ticket 4711 until resumed: wrong price"),
        ("anna", "held", "message 17 until resumed: wrong price"),
    ]
    acts = at_work.json("show", "17")["acts"]
    assert [(act["by"], act["act"]) for act in acts] == [("anna", "held"), ("bob", "resumed")]
    screen = at_work.on_terminal("passes")
    assert re.search(r"bob +resumed +the hold of message 17 by anna", screen.text)
    assert max(map(len, screen.text.splitlines())) <= COLUMNS


def test_status_shows_at_most_ten_holds_as_text(at_work: Cli) -> None:
    tickets = [word for number in range(12) for word in ("--ticket", f"{number}")]
    assert at_work("pause", *tickets).returncode == 0
    assert len(at_work.json("status")["holds"]) == 12
    lines = at_work("status").stdout.splitlines()
    assert len([line for line in lines if line.startswith("Hold ticket ")]) == 10
    assert "Holds\t2 more; see `retrycli status --json`" in lines
    assert at_work("resume", *tickets).returncode == 0
    assert at_work.json("status")["holds"] == []


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("seen", [False, True], ids=["new", "queued"])
def test_a_ticket_is_held_however_its_column_writes_it(
    at_work: Cli, application: Application, sandbox: Sandbox, *, seen: bool
) -> None:
    """In SQL, a JSON text has quotes."""
    application.fill_due()
    application.execute("ALTER TABLE pending_messages DROP CONSTRAINT pending_messages_ticket_id_fkey")
    application.execute("ALTER TABLE pending_messages ALTER ticket_id TYPE jsonb USING to_jsonb('T' || ticket_id)")
    if seen:
        at_work("pause")
        at_work("run-once")
        at_work("resume")
    assert at_work("pause", "--ticket", "T4706").returncode == 0
    at_work("run-once")
    assert sent(application) == {CUSTOMER, INTERNAL}
    assert [entry["held"] for entry in at_work.json("list-failed", "--ticket", "T4706")["messages"]] == [True]
    assert "1 waiting message" in at_work.on_terminal("status").text


@pytest.mark.databases("postgresql")
def test_an_enumeration_may_lack_the_type_that_is_held(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    application.fill_due()
    application.execute("UPDATE pending_messages SET message_type = 'internal' WHERE message_type = 'supplier'")
    application.execute("CREATE TYPE kind AS ENUM ('customer', 'internal')")
    application.execute("ALTER TABLE pending_messages ALTER message_type TYPE kind USING message_type::kind")
    for options in (["--type", "supplier"], ["--destination", sandbox.url]):
        assert at_work("pause", *options).returncode == 0
        assert at_work("status").returncode == 0
        done = at_work.json("run-once")
        assert done["sent"] == (3 if "--type" in options else 0)
        application.execute("UPDATE pending_messages SET status = 'failed', body = body || '.'")
    assert at_work.json("list-failed", "--type", "supplier")["messages"] == []


def test_held_messages_can_be_filtered_and_acted_on(at_work: Cli, application: Application, sandbox: Sandbox) -> None:
    """A held message also counts as waiting. Messages 8 and 10 are not in the queue yet."""
    application.fill_due()
    application.add(9, body=None)
    at_work("run-once", "--limit", "1")
    assert sent(application) == {CUSTOMER}
    application.add(8)
    application.add(10)
    waiting = {SUPPLIER, INTERNAL, 8, 10}

    def listed(*states: str) -> set[int]:
        options = [word for state in states for word in ("--state", state)]
        found = [entry["id"] for entry in at_work.json("list-failed", *options)["messages"]]
        shown = at_work.on_terminal("list-failed", *options, "--limit", "1").words
        assert f" {len(found)} message" in f" {shown}"
        return set(found)

    assert (listed("held"), listed("waiting")) == (set(), waiting)
    at_work("pause", "--message", "6", "--message", "8", "--ticket", "4707")
    assert (listed("held"), listed("waiting")) == ({SUPPLIER, INTERNAL, 8}, waiting)
    assert listed("held", "escalated") == {SUPPLIER, INTERNAL, 8, 9}
    at_work("pause", "--destination", sandbox.url)
    assert listed("held") == waiting
    assert {entry["id"] for entry in at_work.json("list-failed")["messages"] if entry["held"]} == waiting
    at_work("resume", "--destination", sandbox.url)
    assert at_work.json("reject", "--state", "held", "--reason", "too late", "--yes")["done"] == 3
    assert (listed("held"), listed("waiting")) == (set(), {10})


def test_explain_names_all_holds_and_the_command_that_ends_them(at_work: Cli, application: Application) -> None:
    application.add(17, ticket_id=4711)
    at_work("pause", "--message", "17", "--ticket", "4711", "--by", "anna", "--reason", "wrong price")
    found = at_work.json("explain", "17")
    [gate] = [gate for gate in found["gates"] if gate["name"] == "hold"]
    assert gate["figure"] == "message 17 by anna (wrong price); ticket 4711 by anna (wrong price)"
    assert [(hold["kind"], hold["target"]) for hold in found["holds"]] == [("message", "17"), ("ticket", "4711")]
    assert "Next: retrycli resume --message 17 --ticket 4711\n" in at_work.on_terminal("explain", "17").text


def test_a_rejected_message_can_be_requeued_after_its_hold_has_ended(at_work: Cli, application: Application) -> None:
    """Holds are in the history of a message, but they are not what an operator decided about it."""
    application.add(17)
    at_work("run-once", "--dry-run")
    at_work("pause", "--message", "17")
    assert at_work("reject", "17", "--reason", "no longer needed").returncode == 0
    at_work("resume", "--message", "17")
    assert "Next: `retrycli requeue 17` returns the message to the queue" in at_work.on_terminal("show", "17").text
    done = at_work("requeue", "17")
    assert (done.returncode, done.stderr) == (0, "")
    assert application.state(17) == "waiting"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("--message 1", 4, "message 1 is sent, not failed: there is nothing to hold"),
        ("--message 5 --message 99", 4, "no message 99"),
        ("--ticket ''", 2, "the value is empty; give a value, or omit the option"),
    ],
)
def test_a_hold_that_makes_no_sense_is_refused_and_changes_nothing(
    at_work: Cli, application: Application, options: str, code: int, words: str
) -> None:
    application.fill()
    before = application.dump()
    done = at_work("pause", *shlex.split(options))
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert application.dump() == before


def test_on_a_terminal_every_time_is_local_and_has_its_offset(at_work: Cli, application: Application) -> None:
    """The history stores times in UTC within its sentences. An operator's reason may look like a time."""
    application.add(5)
    at_work("run-once", "--limit", "1", "--dry-run")
    desk = at_work.having({"TZ": "Asia/Kolkata"})
    desk("pause", "--for", "2h", "--reason", "until 2026-99-99T00:00:00Z")
    begun = desk.on_terminal("pause", "--for", "3h").words
    desk("run-once")
    desk("pause", "--message", "5", "--for", "2h")
    screens = [
        begun,
        *(desk.on_terminal(*words.split(), columns=200).words for words in ("passes", "show 5", "status")),
    ]
    for screen in screens:
        told = screen.replace("2026-99-99T00:00:00Z", "")
        assert not re.search(r"\d{4}-\d\d-\d\dT|:\d\d\.\d", told), screen
        assert set(re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d(\S{6})", told)) == {"+05:30"}
    assert re.search(r"created_at\t\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n", desk("show", "5").stdout)
