"""The files in ``cron/``, each tested with the tool that reads it, if it is installed."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from retrycli.config.loader import CONFIG_VARIABLE, PREFIX, SECRETS
from retrycli.config.settings import Settings
from retrycli.domain import cron_line
from retrycli.domain.errors import LockHeld
from tests.cron.machine import FILES, PROGRAM, Machine, an_empty_queue, run, tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES = (
    "crontab",
    "retrycli.cron.d",
    "retrycli.service",
    "retrycli.timer",
    "retrycli-serve.service",
    "nginx.conf",
    "kubernetes-cronjob.yaml",
    "logrotate",
    "prometheus-rules.yml",
)
WITHOUT_COMMENTS = {"grafana-dashboard.json"}
ARGUMENTS = "-P -m retrycli --config /etc/retrycli/retrycli.toml run-once --started-by "
CRONS, TIMERS = f"{ARGUMENTS}cron", f"{ARGUMENTS}timer".replace("run-once", "--log-level INFO run-once")

MINUTE_HAND = "* * * * * ticketing echo minute $PPID >> /opt/journal\n"

INTERVAL = timedelta(minutes=Settings().schedule.retry_interval_minutes)
REQUEST = timedelta(seconds=Settings().gateway.request_timeout_seconds)
LONGEST_PASS = timedelta(minutes=Settings().run.deadline_minutes) + REQUEST


@dataclass(frozen=True)
class Job:
    schedule: str
    user: str | None
    command: str


def jobs(name: str) -> tuple[dict[str, str], list[Job]]:
    """Return a crontab's variables and jobs, by the rules of crontab(5)."""
    variables: dict[str, str] = {}
    found = []
    for line in (FILES / name).read_text().splitlines():
        text = line.strip()
        if assignment := re.fullmatch(r"(\w+)\s*=\s*(.*)", text):
            variables[assignment[1]] = assignment[2]
        elif text and not text.startswith("#"):
            *schedule, rest = text.split(maxsplit=5)
            user, command = rest.split(maxsplit=1) if name == "retrycli.cron.d" else (None, rest)
            found.append(Job(" ".join(schedule), user, command))
    return variables, found


@pytest.fixture(params=["crontab", "retrycli.cron.d"])
def crontab(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_cron_install_writes_the_recommended_line_that_the_manual_shows(crontab: str) -> None:
    system = crontab == "retrycli.cron.d"
    job = cron_line.Job(INTERVAL, PROGRAM, "/etc/retrycli/retrycli.toml", "ticketing", system)
    block = cron_line.block(job)
    line = block.splitlines()[-2]
    assert (FILES / crontab).read_text().splitlines()[-1] == line
    page = (FILES.parent / "retrycli/manual/cron.md").read_text()
    assert (block if not system else "".join(f"+{each}\n" for each in block.splitlines())) in page


def test_the_crontab_sets_variables_and_ends_with_a_newline(crontab: str) -> None:
    """Cron ignores a last line without a newline."""
    assert jobs(crontab)[0] == {"PATH": "/usr/local/bin:/usr/bin:/bin", "MAILTO": "operators@example.com"}
    assert (FILES / crontab).read_bytes().endswith(b"\n")


def test_debians_crontab_accepts_the_crontab() -> None:
    command = tool("crontab", "cron")
    if "dry" not in run(command, "-h").stderr:
        pytest.skip("this crontab has no dry run (-n): Debian's has one from 3.0pl1-160 on")
    good = run(command, "-n", FILES / "crontab")
    assert good.returncode == 0, good.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.slow
@pytest.mark.long_except("test_real_cron_runs_the_line_every_15_minutes_in_its_environment[retrycli.cron.d]")
def test_real_cron_runs_the_line_every_15_minutes_in_its_environment(machine: Machine, crontab: str) -> None:
    machine.install(crontab)
    (machine.root / "etc/cron.d/minute-hand").write_text(MINUTE_HAND)
    # Cron leaves out minutes if it can't run for five of them, which are more than a second at this speed.
    machine.run_until(lambda: machine.journal().count("call") >= 3, speed=240)
    _, first, second, *_ = "".join("c" if word == "call" else "." for word in machine.journal()).split("c")
    # Jobs that are due in the same minute may start in either order.
    assert {len(first), len(second)} <= {14, 15, 16}
    for call in machine.calls():
        assert call.pop("PWD") == call.pop("FOLDER") == "/opt"  # the user's home, never the project's folder
        assert call == {
            "ARGUMENTS": CRONS,
            "UMASK": "0077",
            "HOME": "/opt",
            "LOGNAME": "ticketing",
            "SHELL": "/bin/sh",
            **jobs(crontab)[0],
        }
    assert machine.mails() == []


@pytest.mark.slow
def test_real_cron_mails_the_commands_output_to_mailto(machine: Machine, crontab: str) -> None:
    machine.install(crontab)
    (machine.root / "opt/noisy").touch()
    machine.run_until(lambda: any("something is wrong" in mail for mail in machine.mails()))
    assert all("\nTo: operators@example.com\n" in mail for mail in machine.mails())


RETRYCLI = f"""\
#!/bin/sh
{sys.executable} "$@" > /opt/said 2>&1
echo $? > /opt/ended
"""


@pytest.mark.slow
@pytest.mark.skipif(Path(sys.prefix).is_relative_to("/opt"), reason="retrycli is in /opt, which is private here")
def test_a_pass_that_real_cron_starts_finds_its_settings_and_prints_nothing(machine: Machine, crontab: str) -> None:
    machine.install(crontab, RETRYCLI)
    database, ended = machine.root / "opt/tickets.db", machine.root / "opt/ended"
    an_empty_queue(database)
    (machine.root / "etc/retrycli").mkdir()
    (machine.root / "etc/retrycli/retrycli.toml").write_text(
        '[database]\nurl = "sqlite:////opt/tickets.db"\n[gateway]\nbase_url = "http://127.0.0.1:9"\n'
    )
    # The clock is slower than in other tests, so that the next tick comes long after the end of this pass.
    machine.run_until(lambda: ended.exists() and ended.read_text() != "", speed=60)
    assert ((machine.root / "opt/said").read_text(), ended.read_text()) == ("", "0\n")
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT result FROM retrycli_passes").fetchall() == [("completed",)]


def unit(name: str) -> dict[str, list[str]]:
    """Return the settings of a unit in ``cron/``, each with the list of its values."""
    found: dict[str, list[str]] = {}
    for line in (FILES / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


def seconds(span: str) -> timedelta:
    amount, word = re.fullmatch(r"(\d+)(min|s)?", span, re.ASCII).groups()  # type: ignore[union-attr]
    return timedelta(minutes=int(amount)) if word == "min" else timedelta(seconds=int(amount))


@pytest.fixture
def units(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Provide copies of all units that start an existing program, because systemd-analyze refuses a missing one."""
    service, timer, server = (tmp_path / name for name in NAMES if name.endswith((".service", ".timer")))
    for unit in (service, timer, server):
        unit.write_text((FILES / unit.name).read_text().replace(PROGRAM, sys.executable))
    return service, timer, server


def test_systemd_accepts_the_units(units: tuple[Path, Path, Path]) -> None:
    verified = run(tool("systemd-analyze", "systemd"), "verify", *units)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_systemd_rates_the_services_as_well_confined(units: tuple[Path, Path, Path]) -> None:
    for service in (unit for unit in units if unit.suffix == ".service"):
        rated = run(tool("systemd-analyze", "systemd"), "security", "--offline=true", "--threshold=20", service)
        assert rated.returncode == 0, rated.stdout.splitlines()[-1:]


def test_the_server_is_confined_like_a_pass() -> None:
    server, one_pass = unit("retrycli-serve.service"), unit("retrycli.service")
    confinement = {key for key in one_pass if key.startswith(("Protect", "Private", "Restrict", "System", "Lock"))}
    assert [key for key in confinement if server.get(key) != one_pass[key]] == []


def test_only_the_socket_of_the_server_belongs_to_the_proxys_group() -> None:
    """SQLite's files get the group of the process. The proxy must not be able to open them."""
    server = unit("retrycli-serve.service")
    [group] = server["SupplementaryGroups"]
    assert server["Group"] == unit("retrycli.service")["Group"] != [group]
    assert server["ExecStartPre"] == [f"+/bin/chgrp {group} /run/{server['RuntimeDirectory'][0]}"]
    assert int(server["RuntimeDirectoryMode"][0], 8) & stat.S_ISGID, "the socket gets the group of its folder"


def test_the_timer_fires_every_quarter_of_an_hour_and_catches_up_after_downtime() -> None:
    timer = unit("retrycli.timer")
    assert [timer[key] for key in ("Persistent", "AccuracySec", "RandomizedDelaySec")] == [["true"], ["1s"], ["0"]]
    noon = "--base-time=2026-01-01 11:59:30 UTC"
    analyze = tool("systemd-analyze", "systemd")
    answer = run(analyze, "calendar", "--iterations=5", noon, *timer["OnCalendar"], TZ="UTC")
    assert answer.returncode == 0, answer.stderr
    fires = ["12:00:00", "12:15:00", "12:30:00", "12:45:00", "13:00:00"]
    assert re.findall(r"2026-01-01 (\S+) UTC", answer.stdout) == fires


def test_systemd_runs_the_same_command_as_the_same_user_as_cron() -> None:
    service = unit("retrycli.service")
    assert service["ExecStart"] == [f"{PROGRAM} {TIMERS}"]
    assert service["User"] == [jobs("retrycli.cron.d")[1][0].user]
    assert (service["Type"], service["UMask"], service["KillSignal"]) == (["oneshot"], ["0077"], ["SIGTERM"])
    assert service["SuccessExitStatus"] == [f"{LockHeld.exit_code} 143"], "a held lock and a requested stop"


def test_systemd_limits_the_duration_of_a_pass() -> None:
    service = unit("retrycli.service")
    [longest], [stop] = service["TimeoutStartSec"], service["TimeoutStopSec"]
    assert seconds(longest) > LONGEST_PASS
    assert seconds(stop) > REQUEST
    assert seconds(longest) + seconds(stop) < INTERVAL


def test_every_credential_has_a_name_that_retrycli_knows() -> None:
    text = (FILES / "retrycli.service").read_text()
    names = re.findall(r"^#?LoadCredential=([^:]+):/", text, re.MULTILINE)
    assert names
    assert set(names) <= set(SECRETS)


@pytest.fixture
def cronjob() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FILES / "kubernetes-cronjob.yaml").read_text())
    return found


@pytest.fixture
def pod(cronjob: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return found


def test_the_cronjob_has_the_crontabs_schedule_and_never_overlaps(cronjob: dict[str, Any]) -> None:
    assert (cronjob["apiVersion"], cronjob["kind"]) == ("batch/v1", "CronJob")
    spec = cronjob["spec"]
    assert spec["schedule"] == jobs("crontab")[1][0].schedule
    assert spec["concurrencyPolicy"] == "Forbid"
    # The controller checks every 10 s, so a shorter deadline could make it miss a tick.
    assert timedelta(seconds=10) < timedelta(seconds=spec["startingDeadlineSeconds"]) < INTERVAL


def test_kubernetes_limits_the_duration_of_a_pass_and_does_not_repeat_it(
    cronjob: dict[str, Any], pod: dict[str, Any]
) -> None:
    job = cronjob["spec"]["jobTemplate"]["spec"]
    longest = timedelta(seconds=job["activeDeadlineSeconds"])
    grace = timedelta(seconds=pod["terminationGracePeriodSeconds"])
    assert longest > LONGEST_PASS
    assert grace > REQUEST
    assert longest + grace < INTERVAL
    assert job["backoffLimit"] == 0
    assert pod["restartPolicy"] == "Never"


def test_the_pod_is_confined_and_suits_retrycli(pod: dict[str, Any]) -> None:
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    rights = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert container["securityContext"] == rights
    assert pod["hostname"] == "retrycli", "each earlier pod would look like a host with a dead cron"
    # Kubernetes would turn a Service named retrycli into variables such as RETRYCLI_SERVICE_HOST, which are refused.
    assert pod["enableServiceLinks"] is False


def test_the_pod_mounts_the_files_of_its_variables_and_gets_its_secrets(pod: dict[str, Any]) -> None:
    [container] = pod["containers"]
    values = {env["name"]: env.get("value", env.get("valueFrom")) for env in container["env"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert mounts.keys() == volumes.keys()
    [item] = volumes["secrets"]["secret"]["items"]
    assert values["RETRYCLI_GATEWAY__TOKEN_FILE"] == f"{mounts['secrets']}/{item['path']}"
    assert volumes["secrets"]["secret"]["defaultMode"] == 0o440
    assert "emptyDir" in volumes["tmp"]
    assert values["RETRYCLI_RUN__LOCK_FILE"] == f"{mounts['tmp']}/retrycli.lock"
    assert values["RETRYCLI_DATABASE__URL"] == {"secretKeyRef": {"name": "retrycli", "key": "database-url"}}


def test_the_pods_command_runs_a_pass_in_its_environment(pod: dict[str, Any], tmp_path: Path) -> None:
    """SQLite replaces PostgreSQL here: the test covers the command, its options and its variables."""
    an_empty_queue(tmp_path / "tickets.db")
    (tmp_path / "token").write_text("s3cret\n")
    (tmp_path / "retrycli.toml").touch()
    [container] = pod["containers"]
    environment = {env["name"]: env.get("value", "") for env in container["env"]} | {
        "RETRYCLI_CONFIG": str(tmp_path / "retrycli.toml"),  # empty, so that this machine's settings are not read
        "RETRYCLI_DATABASE__URL": f"sqlite:///{tmp_path}/tickets.db",
        "RETRYCLI_GATEWAY__TOKEN_FILE": str(tmp_path / "token"),
        "RETRYCLI_RUN__LOCK_FILE": str(tmp_path / "lock"),
    }
    program, *arguments = container["command"]
    made = run(sys.executable, "-m", program, *arguments, **environment)
    assert (made.returncode, made.stdout) == (0, ""), made.stderr
    assert all(isinstance(json.loads(line), dict) for line in made.stderr.splitlines())


@pytest.fixture
def rotation(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Provide a function that runs logrotate on a copy of the file, which names an existing folder and user."""
    if os.geteuid() != 0:
        pytest.skip("the file makes logrotate become another user, so it has to be run by root")
    logrotate = tool("logrotate", "logrotate")
    text = (FILES / "logrotate").read_text()
    copy = tmp_path / "logrotate"
    copy.write_text(text.replace("/var/log/retrycli", str(tmp_path)).replace("ticketing ticketing", "root root"))
    copy.chmod(0o644)

    def rotate(*options: str) -> subprocess.CompletedProcess[str]:
        return run(logrotate, *options, "--state", tmp_path / "state", copy)

    return rotate


def test_logrotate_loses_no_line_of_a_running_pass(
    rotation: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    log = tmp_path / "retrycli.log"
    with log.open("a") as running:
        running.write("before\n")
        running.flush()
        rotated = rotation("--force")
        assert rotated.returncode == 0, rotated.stderr
        running.write("after\n")
    assert (tmp_path / "retrycli.log.1").read_text() == "before\nafter\n"
    assert log.read_text() == ""
    assert log.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", NAMES)
def test_each_variable_in_the_files_is_a_setting(name: str) -> None:
    for variable in _variables((FILES / name).read_text()):
        section, _, key = variable.removeprefix(PREFIX).lower().partition("__")
        assert section in Settings.model_fields, variable
        assert key in type(getattr(Settings(), section)).model_fields, variable


def _variables(text: str) -> Iterator[str]:
    # RETRYCLI_SERVICE_HOST is not a setting: Kubernetes sets it, and a comment in the manifest mentions it.
    others = {CONFIG_VARIABLE, "RETRYCLI_SERVICE_HOST"}
    yield from (name for name in re.findall(rf"{PREFIX}[A-Z][A-Z_]*", text) if name not in others)


@pytest.mark.parametrize("name", NAMES)
def test_each_file_says_where_to_install_it_and_what_to_change(name: str) -> None:
    head = (FILES / name).read_text().split("\n\n")[0]
    assert "# Where: " in head
    assert re.search(r"^# (Change|For): ", head, re.MULTILINE)


def test_covers_every_file() -> None:
    assert {path.name for path in FILES.iterdir()} == {*NAMES, *WITHOUT_COMMENTS}
