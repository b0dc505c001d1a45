"""The systemd units that start passes: writing and recognising them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from retrycli.domain.errors import ConfigurationError
from retrycli.system import systemd
from tests.unit.domain.test_cron_line import CONFIG, JOB

COMMAND = f"/opt/retrycli/bin/python3 -P -m retrycli --config {CONFIG} --log-level INFO run-once --started-by timer"


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [(1, "*:*"), (15, "*:0/15"), (60, "*:00"), (120, "0/2:00"), (1440, "0:00"), (7, "420s"), (0.5, "30s")],
)
def test_a_timer_uses_crons_times_or_counts(minutes: float, expected: str) -> None:
    job = replace(JOB, interval=timedelta(minutes=minutes))
    assert systemd.times(systemd.timer(job)) == systemd.when(job.interval) == expected


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ("*:0/15", "0-59/15 * * * *"),
        ("*-*-* *:07,22:00", "07,22 * * * *"),
        ("8..18:30", "30 8-18 * * *"),
        ("0/2:00", "00 0-23/2 * * *"),
        ("hourly", "@hourly"),
        ("minutely", "* * * * *"),
        ("Mon *-*-* 00:00:00", None),
        ("420s", None),
    ],
)
def test_a_calendar_event_has_crons_meaning(event: str, line: str | None) -> None:
    assert systemd.as_cron(event) == line


@pytest.mark.parametrize(("when", "seconds"), [("420s", 420), ("7min", 420), ("1.5h", 5400), ("90", 90), ("*:0/15", 0)])
def test_a_counting_timer_is_parsed(when: str, seconds: float) -> None:
    assert systemd.span(when) == (timedelta(seconds=seconds) or None)


def test_a_service_is_recognised_by_its_command_and_names_its_settings() -> None:
    assert systemd.called(systemd.service(JOB, system=True)) == (COMMAND, CONFIG)
    assert systemd.called("[Service]\nExecStart=/usr/bin/true retrycli\n") is None
    assert systemd.called("[Service]\nExecStart=/x/retrycli run-once\n") == ("/x/retrycli run-once", None)


def test_only_a_system_service_names_a_user() -> None:
    assert systemd.values(systemd.service(JOB, system=True))["User"] == ["ticketing"]
    assert "User" not in systemd.values(systemd.service(JOB, system=False))


def test_a_service_says_how_to_remove_it() -> None:
    said = "Remove this unit with `retrycli cron remove --systemd`. Change it with `systemctl edit retrycli.service`."
    assert said in systemd.service(JOB, system=True)
    said = (
        "Remove this unit with `retrycli cron remove --user --systemd`. "
        "Change it with `systemctl --user edit retrycli.service`."
    )
    assert said in systemd.service(JOB, system=False)


@pytest.mark.parametrize("path", ['/srv/a b/50%"$HOME".toml', "/srv/back\\slash"])
def test_a_path_is_read_back_unchanged(path: str) -> None:
    found = systemd.called(systemd.service(replace(JOB, config=path), system=True))
    assert found is not None
    assert found[1] == path


def test_a_path_with_a_line_break_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="can't be used in a systemd unit"):
        systemd.service(replace(JOB, config="/srv/a\nUser=root"), system=True)


def test_a_unit_belongs_only_to_its_settings() -> None:
    text = systemd.timer(JOB)
    assert systemd.is_marked(text)
    assert systemd.is_marked(text, CONFIG)
    assert not systemd.is_marked(text, "/etc/retrycli/other.toml")
    assert not systemd.is_marked("[Timer]\n" + text)
