"""Delivery windows: passes deliver a message only while the windows of its type are open."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import on_both

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = on_both

HOUR = timedelta(hours=1)
CUSTOMER, SUPPLIER, INTERNAL = 5, 6, 7
"""The due messages that `Application.fill_due` adds, by type."""
ALWAYS = "daily 00:00-24:00"
WINDOWS, ZONE = "RETRYCLI_SCHEDULE__WINDOWS", "RETRYCLI_SCHEDULE__TIMEZONE"
TO_CUSTOMERS = "RETRYCLI_SCHEDULE__TYPES__CUSTOMER__WINDOWS"
OPENS = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + 12 * HOUR
CLOSED = f"daily {OPENS:%H:%M}-{OPENS + HOUR:%H:%M}"
"""A window in UTC that opens in about twelve hours."""


def sent(application: Application) -> set[object]:
    return {key for key, row in application.rows().items() if row["status"] == "sent"}


@pytest.mark.parametrize(
    ("variables", "left"),
    [
        ({TO_CUSTOMERS: "closed"}, {CUSTOMER}),
        ({WINDOWS: "closed", TO_CUSTOMERS: "[]"}, {SUPPLIER, INTERNAL}),
        ({WINDOWS: f"closed, {ALWAYS}"}, set()),
    ],
)
def test_a_pass_sends_only_types_whose_windows_are_open(
    at_work: Cli, application: Application, variables: Mapping[str, str], left: set[int]
) -> None:
    application.fill_due()
    now = at_work.having({ZONE: "UTC"} | {name: text.replace("closed", CLOSED) for name, text in variables.items()})
    assert now.json("status")["messages"]["due"] == 3 - len(left)
    assert now.json("run-once")["sent"] == 3 - len(left)
    assert sent(application) == {CUSTOMER, SUPPLIER, INTERNAL} - left
    waiting = application.rows("retrycli_queue")
    assert {row["state"] for row in waiting.values()} <= {"waiting"}
    assert {application.row(message_id)["retry_count"] for message_id in left} <= {0, 1, None}
    assert at_work.json("run-once")["sent"] == len(left), "without windows, all others are sent"


def test_the_windows_of_a_file_are_read_with_its_zone(
    cli: Cli, application: Application, sandbox: Sandbox, tmp_path: Path
) -> None:
    """In Kiritimati it is always fourteen hours later than in UTC."""
    application.fill_due()
    later = OPENS + 14 * HOUR
    text = f"daily {later:%H:%M}-{later + HOUR:%H:%M}"
    lines = ["[schedule]", 'timezone = "Pacific/Kiritimati"', "[schedule.types.customer]", f'windows = ["{text}"]']
    (tmp_path / "retrycli.toml").write_text("\n".join(lines) + "\n")
    here = cli.having(application.variables(sandbox.url))
    [state] = here.json("status")["windows"]
    assert state == {"types": ["customer"], "open": False, "next_opening": f"{OPENS:%Y-%m-%dT%H:%M:%SZ}"}
    assert here.json("run-once")["sent"] == 2
    shown = {entry["key"]: entry["value"] for entry in here.json("config", "show")["settings"]}
    assert shown["schedule.timezone"] == "Pacific/Kiritimati"
    assert shown["schedule.types.customer.windows"] == text
    assert shown["schedule.windows"] is None


def test_status_groups_the_types_and_says_until_when_they_are_closed(at_work: Cli) -> None:
    zone = {ZONE: "UTC"}
    assert at_work.json("status")["windows"] == []
    text = f"{OPENS:%Y-%m-%dT%H:%M:%SZ}"
    now = at_work.having(zone | {WINDOWS: CLOSED, TO_CUSTOMERS: ALWAYS})
    assert now.json("status")["windows"] == [
        {"types": ["customer"], "open": True, "next_opening": None},
        {"types": ["supplier", "internal"], "open": False, "next_opening": text},
    ]
    assert f"Window\tsupplier, internal closed until {text}" in now("status").stdout
    assert re.search(r"Window +supplier, internal closed until [-0-9]{10}", now.on_terminal("status").text)
    assert "Window" not in at_work.having(zone | {WINDOWS: ALWAYS})("status").stdout


def test_all_commands_know_of_a_closed_window_and_an_operator_may_ignore_it(
    at_work: Cli, application: Application
) -> None:
    application.fill_due()
    now = at_work.having({ZONE: "UTC", TO_CUSTOMERS: CLOSED})
    found = now.json("run-once", "--dry-run")
    assert ({message["id"] for message in found["would_send"]}, found["withheld"]) == ({SUPPLIER, INTERNAL}, 1)
    assert now.json("run-once")["sent"] == 2
    assert "retrycli_due_messages 0.0" in now("metrics").stdout
    assert "retrycli_due_messages 1.0" in at_work("metrics").stdout
    [gate] = [gate for gate in now.json("explain", str(CUSTOMER))["gates"] if gate["name"] == "window"]
    assert gate == {
        "name": "window",
        "open": False,
        "figure": f"{CLOSED}; opens at",
        "time": f"{OPENS:%Y-%m-%dT%H:%M:%SZ}",
    }
    assert f"Next: `retrycli retry {CUSTOMER}` attempts it now\n" in now.on_terminal("explain", str(CUSTOMER)).text
    [gate] = [gate for gate in at_work.json("explain", str(CUSTOMER))["gates"] if gate["name"] == "window"]
    assert (gate["open"], gate["figure"]) == (True, "always open")
    assert now("retry", str(CUSTOMER)).returncode == 0
    assert sent(application) == {CUSTOMER, SUPPLIER, INTERNAL}


def test_a_message_that_expires_while_its_window_is_closed_is_escalated_when_it_opens(
    at_work: Cli, application: Application
) -> None:
    application.add(17, hours_ago=5)
    expire = {"RETRYCLI_SCHEDULE__EXPIRES_AFTER_HOURS": "4", ZONE: "UTC"}
    now = at_work.having(expire | {WINDOWS: CLOSED})
    assert now.json("run-once")["escalated"] == 0
    counts = now.json("status")["messages"]
    assert (counts["due"], counts["expired"], counts["expired_due"]) == (0, 1, 0)
    assert (
        "1 of the waiting messages; a pass will escalate it when due, but not during a hold or" in now("status").stdout
    )
    assert at_work.having(expire | {WINDOWS: ALWAYS}).json("run-once")["escalated"] == 1


WRONG: list[tuple[dict[str, str], str]] = [
    (
        {WINDOWS: "Mon-Fri 8-18"},
        f"schedule.windows (environment {WINDOWS}): 'Mon-Fri 8-18' is not a valid delivery window; write days and "
        'times, such as "Mon-Fri 08:00-18:00"',
    ),
    (
        {TO_CUSTOMERS: f"{ALWAYS}, tea"},
        f"schedule.types.customer.windows (environment {TO_CUSTOMERS}): 'tea' is not a valid delivery window",
    ),
    (
        {ZONE: "Europe/Atlantis"},
        f"schedule.timezone (environment {ZONE}): 'Europe/Atlantis' is not a time zone of this machine; write a name "
        "such as Europe/Berlin, or install tzdata",
    ),
    *(
        ({ZONE: name}, f"schedule.timezone (environment {ZONE}): '{name}' is not a time zone")
        for name in ("../etc/passwd", "Europe", "")
    ),
]


@pytest.mark.parametrize(("variables", "said"), WRONG)
def test_a_wrong_window_or_zone_is_one_clear_error(at_work: Cli, variables: Mapping[str, str], said: str) -> None:
    for command in ("run-once", "config check"):
        done = at_work.having(variables)(*command.split())
        assert (done.returncode, done.stdout) == (78, "")
        assert done.stderr.startswith(f"retrycli: {said}")
        assert done.stderr.count("\n") == 1


def test_config_check_shows_the_windows_and_warns_of_one_that_passes_may_miss(at_work: Cli) -> None:
    facts: dict[str, Any] = at_work.having({WINDOWS: "Mon-Fri 08:00-18:00", ZONE: "Europe/Berlin"}).json(
        "config", "check"
    )
    assert facts["windows customer"] == "Mon-Fri 08:00-18:00 (Europe/Berlin)"
    assert "warning" not in facts
    done = at_work.having({TO_CUSTOMERS: "Mon-Fri 08:00-18:00, Sat 09:00-09:10"})("config", "check")
    assert done.returncode == 0
    assert (
        "Warning\ta delivery window is shorter than schedule.retry_interval_minutes (15 min), so passes may miss it "
        "(customer: open for 10 min)"
    ) in done.stdout
