"""Cron lines: writing retrycli's block in a crontab, and finding it there."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.cron_line import BEGIN, END, INTERVALS, Block, Job, block, block_in, command, schedule, with_block
from retrycli.domain.errors import ConfigurationError

CONFIG = "/etc/retrycli/retrycli.toml"
JOB = Job(timedelta(minutes=15), "/opt/retrycli/bin/python3", CONFIG, "ticketing")
LINE = f"umask 077; exec /opt/retrycli/bin/python3 -P -m retrycli --config {CONFIG} run-once --started-by cron"
OWN, SYSTEM = block(JOB), block(replace(JOB, system=True))
OTHERS = "MAILTO=ana\n# caf\udce9\n0 5 * * * backup 100\\%\n"
ELSEWHERE = block(replace(JOB, config="/srv/other.toml"))


@pytest.mark.parametrize(
    ("minutes", "expected"), [(1, "* * * * *"), (30, "*/30 * * * *"), (720, "0 */12 * * *"), (1440, "0 0 * * *")]
)
def test_cron_can_express_intervals_on_the_clocks_grid(minutes: float, expected: str) -> None:
    assert schedule(timedelta(minutes=minutes)) == expected
    assert INTERVALS[expected] == timedelta(minutes=minutes)


@pytest.mark.parametrize("minutes", [0.5, 7.5, 45, 90, 300, 2880])
def test_another_interval_is_refused(minutes: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"is {minutes:g}, but cron supports only.*retrycli manual cron"):
        schedule(timedelta(minutes=minutes))


@given(st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="\\"), min_size=1))
def test_the_shell_receives_every_path_unchanged(name: str) -> None:
    """Cron removes the backslash before each %, and ends the command at a % without one."""
    line = command(replace(JOB, config=f"/srv/a b/{name}"))
    assert "%" not in line.replace("\\%", "")
    words = shlex.split(line.replace("\\%", "%"))
    assert words[words.index("--config") + 1] == f"/srv/a b/{name}"


@pytest.mark.parametrize("path", ["/srv/a\nb", "/srv/a\\b"])
def test_a_path_that_a_crontab_cannot_contain_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be used in a crontab"):
        command(replace(JOB, config=path))


def test_only_the_system_block_names_a_user_and_sets_path() -> None:
    """In a user's crontab, PATH would also apply to every line below the block."""
    assert f"\n*/15 * * * * {LINE}\n" in OWN
    assert f"\nPATH=/usr/local/bin:/usr/bin:/bin\n*/15 * * * * ticketing {LINE}\n" in SYSTEM
    assert "\nPATH=" not in OWN


@pytest.mark.parametrize("others", ["", OTHERS, OTHERS.rstrip("\n"), OTHERS + ELSEWHERE])
def test_a_block_is_appended_and_other_lines_are_kept(others: str) -> None:
    """A last line without a newline gets one, because cron would not read the line."""
    ended = others if not others or others.endswith("\n") else others + "\n"
    assert with_block(others, CONFIG, OWN) == ended + OWN
    assert with_block(ended + OWN, CONFIG, "") == ended
    assert with_block(others, CONFIG, "") == others


def test_a_block_is_replaced_in_place() -> None:
    new = block(replace(JOB, interval=timedelta(minutes=30)))
    assert with_block(OTHERS + OWN + "@reboot true\n", CONFIG, new) == OTHERS + new + "@reboot true\n"


@pytest.mark.parametrize("rest", ["", f"0 5 * * * true\n{BEGIN}/srv/other.toml\n{END}\n"])
def test_a_block_without_its_end_is_left_alone(rest: str) -> None:
    """Without the end marker, a change of the block could delete the user's own lines."""
    torn = OTHERS + OWN.replace(END + "\n", "") + rest
    for look in (found, lambda text: with_block(text, CONFIG, ""), lambda text: with_block(text, CONFIG, OWN)):
        with pytest.raises(ConfigurationError, match=r"line 4 of the crontab.*has no matching end"):
            look(torn)


def found(text: str, *, system: bool = False) -> Block | None:
    return block_in(text, CONFIG, system=system, title="a crontab", owner="ana")


@pytest.mark.parametrize(("system", "written", "user"), [(False, OWN, "ana"), (True, SYSTEM, "ticketing")])
def test_a_block_is_found_as_it_was_written(written: str, user: str, *, system: bool) -> None:
    text = f"{OTHERS}*/15 * * * * {LINE}\n{ELSEWHERE}"
    assert found(text, system=system) is None
    assert found(text + written, system=system) == Block("a crontab", written, system, "*/15 * * * *", user, "ana")


@pytest.mark.parametrize(
    ("old", "new", "when"),
    [
        ("*/15 * * * *", "*/5\t* * * *", "*/5 * * * *"),
        ("*/15 * * * *", "# */15 * * * *", ""),
        (END, f"0 * * * * true\n{END}", ""),
        (BEGIN, f"CRON_TZ=Asia/Kathmandu\n{BEGIN}", ""),
    ],
)
def test_an_edited_block_predicts_by_its_one_line_or_not_at_all(old: str, new: str, when: str) -> None:
    edited = found(OWN.replace(old, new, 1))
    assert edited is not None
    assert edited.when == when


@pytest.mark.parametrize(
    ("above", "expected"),
    [
        ("", None),
        ("MAILTO=ana\n MAILTO = 'ops@example.com'  \n", "ops@example.com"),
        ('"MAILTO"=""\n', ""),
        ("# MAILTO=ana\nNOTE=a b c d e\n", None),
    ],
)
def test_a_block_uses_the_variables_above_it(above: str, expected: str | None) -> None:
    edited = found(f"{above}{OWN}MAILTO=late\n")
    assert edited is not None
    assert edited.mail_to == expected
