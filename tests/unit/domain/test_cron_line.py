"""Cron lines: writing retrycli's block in a crontab, and recognising lines that start passes."""

from __future__ import annotations

import shlex
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.cron_line import BEGIN, END, Job, block, calls, command, schedule, with_block
from retrycli.domain.errors import ConfigurationError

CONFIG = "/etc/retrycli/retrycli.toml"
JOB = Job(timedelta(minutes=15), "/opt/retrycli/bin/python3", CONFIG, "ticketing", timedelta(minutes=14))
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


@pytest.mark.parametrize("minutes", [0.5, 7, 7.5, 45, 90, 300, 2880])
def test_an_interval_off_the_grid_is_refused_in_favour_of_a_timer(minutes: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"is {minutes:g}, but cron supports only.*cron install --systemd"):
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


BY_HAND = {
    "7 * * * * /opt/venv/bin/retrycli run-once": ("7 * * * *", None),
    "  @hourly retrycli --config /srv/a.toml run-once": ("@hourly", "/srv/a.toml"),
    "*/5 * * * *\tcd /srv && /venv/bin/python -m retrycli --config='/srv/a b.toml' run-once>>/tmp/log 2>&1": (
        "*/5 * * * *",
        "/srv/a b.toml",
    ),
    r"0 * * * * /srv/100\%/bin/retrycli run-once; true": ("0 * * * *", None),
    "0 * * * * retrycli run-once --limit 5 # don't": ("0 * * * *", None),
    "0 * * * * TZ=UTC LC_ALL=C exec nice -n 5 flock -n /run/lock/x /opt/bin/retrycli run-once": ("0 * * * *", None),
    "0 * * * * sudo -u desk sh -c 'cd /srv; retrycli --config /srv/a.toml run-once'": ("0 * * * *", None),
    "0 * * * * test -x /x && (if /x/python3.11 -P /x/bin/retrycli run-once; then :; fi)": ("0 * * * *", None),
    **{
        f"0 * * * * {command}": ("0 * * * *", None)
        for command in (
            "docker exec app retrycli run-once",
            "docker compose exec -T app retrycli run-once",
            "cd /srv && poetry run retrycli run-once",
            "python3 -m pipenv run retrycli run-once",
            "uv run --directory /srv python -m retrycli run-once",
            "conda run -n desk retrycli run-once",
            "gosu app retrycli run-once",
            "ssh host retrycli run-once",
            "ssh host 'cd /srv; retrycli run-once'",
            "/usr/local/bin/wrap.sh retrycli run-once",
            "echo | xargs retrycli run-once",
            "/bin/sh /srv/retrycli run-once",
            "bash -lc 'retrycli run-once'",
            "echo begin; retrycli run-once && logger done",
            "if test -x /x; then retrycli run-once; fi",
        )
    },
}


@pytest.mark.parametrize("line", BY_HAND)
def test_a_manual_line_is_recognised(line: str) -> None:
    [found] = calls(f"# a comment\n\n{line}\n", system=False)
    assert (found.when, found.config) == BY_HAND[line]
    assert (found.line, found.user, found.installed) == (3, None, False)


@pytest.mark.parametrize(
    "line",
    [
        "# */15 * * * * retrycli run-once",
        "*/15 * * * * retrycli status --check",
        "*/15 * * * * echo retrycli-run-once",
        "*/15 * * * * echo retrycli run-once",
        "*/15 * * * * true # retrycli run-once",
        "*/15 * * * * logger -t retrycli run-once; grep -c 'retrycli run-once' /var/log/syslog > retrycli",
        "*/15 * * * * test -n retrycli run-once && /bin/true retrycli run-once; : retrycli run-once",
        "*/15 * * * * printf %s retrycli run-once | /usr/bin/mail -s retrycli run-once ana; cat retrycli run-once",
        "*/15 * * * * bash -lc 'echo retrycli run-once'",
        "*/15 * * * * backup # retrycli run-once",
        "*/15 * * * * if ! grep -q retrycli run-once; then backup; fi",
        "RUN=retrycli run-once",
        "*/15 * * * * other run-once",
        "*/15 * * *",
        "",
    ],
)
def test_no_other_line_is_recognised_as_a_call(line: str) -> None:
    assert calls(line, system=False) == []


def test_a_line_with_many_wrappers_is_parsed_quickly() -> None:
    """Root parses the crontabs of all users, so no user's line may make parsing slow."""
    assert calls("0 * * * * " + "exec " * 500 + "true\n", system=False) == []
    assert len(calls("0 * * * * " + "exec " * 500 + "retrycli run-once\n", system=False)) == 1


def test_in_a_system_crontab_user_and_command_are_separated() -> None:
    [found] = calls(OTHERS.replace("backup", "root backup") + block(JOB, system=True), system=True)
    assert (found.user, found.command, found.config, found.installed) == ("ticketing", LINE, CONFIG, True)


def test_a_comment_that_mentions_retrycli_is_not_a_marker() -> None:
    text = "# retrycli: our own\n0 * * * * retrycli run-once\n" + block(JOB, system=False)
    assert [call.installed for call in calls(text, system=False)] == [False, True]
    inside = block(JOB, system=False).replace(END, "# retrycli: mine\n" + END)
    assert with_block(OTHERS + inside, CONFIG, "") == OTHERS


def test_lines_after_a_block_are_not_part_of_it() -> None:
    installed, by_hand = calls(block(JOB, system=False) + "0 * * * * retrycli run-once\n", system=False)
    assert (installed.installed, by_hand.installed) == (True, False)


@pytest.mark.parametrize(
    ("above", "expected"),
    [
        ("", None),
        ("MAILTO=ana\n", "ana"),
        ("MAILTO=ana\n MAILTO = 'ops@example.com'  \n", "ops@example.com"),
        ('"MAILTO"=""\n', ""),
        ("# MAILTO=ana\nNOTE=a b c d e retrycli run-once\n", None),
    ],
)
def test_a_line_uses_the_variables_above_it(above: str, expected: str | None) -> None:
    [found] = calls(f"{above}7 * * * * retrycli run-once\nMAILTO=late\n", system=False)
    assert found.mail_to == expected


def test_a_line_uses_the_time_zone_above_it() -> None:
    text = "CRON_TZ=Asia/Kathmandu\n7 3 * * * retrycli run-once\n"
    assert [call.zone for call in calls(text, system=False)] == ["Asia/Kathmandu"]
    assert [call.zone for call in calls(text.replace("CRON_TZ", "TZ"), system=False)] == [None]
