"""Cron lines: writing retrycli's block in a crontab, and finding it there."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.cron_line import (
    BEGIN,
    END,
    Block,
    Job,
    block,
    block_in,
    command,
    interval_of,
    schedule,
    with_block,
)
from retrycli.domain.errors import ConfigurationError

CONFIG = "/etc/retrycli/retrycli.toml"
JOB = Job(timedelta(minutes=15), "/opt/retrycli/bin/python3", CONFIG, "ticketing")
LINE = f"umask 077; exec /opt/retrycli/bin/python3 -P -m retrycli --config {CONFIG} run-once --started-by cron"
OTHERS = "MAILTO=ana\n# caf\udce9\n0 5 * * * backup 100\\%\n"


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [
        (1, "* * * * *"),
        (2, "*/2 * * * *"),
        (15, "*/15 * * * *"),
        (30, "*/30 * * * *"),
        (60, "0 * * * *"),
        (120, "0 */2 * * *"),
        (720, "0 */12 * * *"),
        (1440, "0 0 * * *"),
    ],
)
def test_an_interval_on_the_clocks_grid_has_a_cron_schedule(minutes: int, expected: str) -> None:
    assert schedule(timedelta(minutes=minutes)) == expected
    assert interval_of(expected) == timedelta(minutes=minutes)


@pytest.mark.parametrize(
    "when", ["", "*/7 * * * *", "*/60 * * * *", "7,22 * * * *", "0 */5 * * *", "@hourly", "0 0 1 * *"]
)
def test_other_fields_have_no_interval(when: str) -> None:
    assert interval_of(when) is None


@pytest.mark.parametrize("minutes", [0.5, 7, 7.5, 45, 90, 300, 2880])
def test_an_interval_off_the_grid_is_refused(minutes: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"is {minutes:g}, but cron supports only.*retrycli manual cron"):
        schedule(timedelta(minutes=minutes))


def test_the_command_has_absolute_paths_and_needs_no_search_path() -> None:
    assert command(JOB) == LINE


@given(st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="\\"), min_size=1))
def test_the_shell_receives_every_path_unchanged(name: str) -> None:
    """Cron removes the backslash before each %, and ends the command at a % without one."""
    line = command(replace(JOB, config=f"/srv/a b/{name}"))
    assert "%" not in line.replace("\\%", "")
    words = shlex.split(line.replace("\\%", "%"))
    assert words[words.index("--config") + 1] == f"/srv/a b/{name}"


@pytest.mark.parametrize("path", ["/srv/a\nb", "/srv/a\\b", "/srv/a\x1bb"])
def test_a_path_that_a_crontab_cannot_contain_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be used in a crontab"):
        command(replace(JOB, config=path))


def test_only_the_system_block_names_a_user_and_sets_path() -> None:
    """In a user's crontab, PATH would also apply to every line below the block."""
    own, system = block(JOB, system=False), block(JOB, system=True)
    assert f"\n*/15 * * * * {LINE}\n" in own
    assert f"\nPATH=/usr/local/bin:/usr/bin:/bin\n*/15 * * * * ticketing {LINE}\n" in system
    assert "\nPATH=" not in own


@pytest.mark.parametrize("others", ["", OTHERS, OTHERS.rstrip("\n")])
def test_a_block_is_appended_and_other_lines_are_kept(others: str) -> None:
    """A last line without a newline gets one, because cron would not read the line."""
    text = with_block(others, CONFIG, block(JOB, system=False))
    ended = others if not others or others.endswith("\n") else others + "\n"
    assert text == ended + block(JOB, system=False)
    assert with_block(text, CONFIG, "") == ended


def test_a_block_is_replaced_in_place() -> None:
    new = block(replace(JOB, interval=timedelta(minutes=30)), system=False)
    text = OTHERS + block(JOB, system=False) + "@reboot true\n"
    assert with_block(text, CONFIG, new) == OTHERS + new + "@reboot true\n"
    assert with_block(text, CONFIG, block(JOB, system=False)) == text


def test_a_block_for_other_settings_is_kept() -> None:
    text = OTHERS + block(replace(JOB, config="/srv/other.toml"), system=False)
    assert with_block(text, CONFIG, "") == text
    assert with_block(with_block(text, CONFIG, block(JOB, system=False)), CONFIG, "") == text


@pytest.mark.parametrize("rest", ["", f"0 5 * * * true\n{BEGIN}/srv/other.toml\n{END}\n"])
def test_a_block_without_its_end_is_left_alone(rest: str) -> None:
    """Without the end marker, a change of the block could delete the user's own lines."""
    torn = OTHERS + block(JOB, system=False).replace(END + "\n", "") + rest
    with pytest.raises(ConfigurationError, match=r"line 4 of the crontab.*has no matching end"):
        with_block(torn, CONFIG, "")
    with pytest.raises(ConfigurationError, match=r"line 4 of the crontab.*has no matching end"):
        with_block(torn, CONFIG, block(JOB, system=False))


def found(text: str, *, system: bool = False) -> Block | None:
    return block_in(text, CONFIG, system=system, title="a crontab", owner="ana")


def test_a_block_is_found_as_it_was_written() -> None:
    for system, user in ((False, "ana"), (True, "ticketing")):
        written = block(JOB, system=system)
        assert found(OTHERS + written + "7 * * * * retrycli run-once\n", system=system) == Block(
            "a crontab", written, system, "*/15 * * * *", user, "ana"
        )


def test_no_other_line_is_a_block() -> None:
    own = block(JOB, system=False)
    for text in (
        OTHERS + f"*/15 * * * * {LINE}\n",
        own.replace(CONFIG, "/srv/other.toml"),
        own.replace(END + "\n", ""),
    ):
        assert found(text) is None


@pytest.mark.parametrize(
    ("old", "new", "when"),
    [
        ("*/15 * * * *", "*/5\t* * * *", "*/5 * * * *"),
        ("*/15 * * * *", "@hourly", None),
        ("*/15 * * * *", "# */15 * * * *", ""),
        (END, f"0 * * * * true\n{END}", ""),
        (BEGIN, f"CRON_TZ=Asia/Kathmandu\n{BEGIN}", ""),
    ],
)
def test_an_edited_block_predicts_by_its_one_line_or_not_at_all(old: str, new: str, when: str | None) -> None:
    edited = found(block(JOB, system=False).replace(old, new, 1))
    assert edited is not None
    assert (interval_of(edited.when) is None) if when is None else (edited.when == when)


@pytest.mark.parametrize(
    ("above", "expected"),
    [
        ("", None),
        ("MAILTO=ana\n", "ana"),
        ("MAILTO=ana\n MAILTO = 'ops@example.com'  \n", "ops@example.com"),
        ('"MAILTO"=""\n', ""),
        ("# MAILTO=ana\nNOTE=a b c d e\n", None),
    ],
)
def test_a_block_uses_the_variables_above_it(above: str, expected: str | None) -> None:
    edited = found(f"{above}{block(JOB, system=False)}MAILTO=late\n")
    assert edited is not None
    assert edited.mail_to == expected
