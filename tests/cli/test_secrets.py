"""No command shows or stores a secret, and only commands that are meant to show customers' texts do so.

The tests put marked values in every possible source, including the ticketing API's answers, and search every output for
them.
"""

from __future__ import annotations

import json
import shlex
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from sqlalchemy import make_url

from tests.channels import Webhook, webhook
from tests.cli.command import Cli, all_commands, end
from tests.cli.leaks import SECRETS, WORDS, leaking, leaks
from tests.cli.schedulers import Crontab, a_cron
from tests.cli.test_cron import OWN
from tests.gateway.hostile import SUCCEEDED, Behaviour, Connection, Hostile, answer, closed_port, http

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.cli.application import Application
    from tests.cli.command import Finished
    from tests.cli.conftest import Prepared

LOUD = ("--debug", "--log-level", "debug")
LOG_IN = "/auth/login"

COMMANDS = {
    "run-once": "run-once",
    "passes": "passes",
    "pause": "pause --for 1h",
    "resume": "resume",
    "status": "status",
    "list-failed": "list-failed",
    "show": "show 1",
    "explain": "explain 1",
    "escalations": "escalations",
    "escalations ack": "escalations ack 1",
    "escalations note": "escalations note 1 tea",
    "retry": "retry 1",
    "requeue": "requeue 1 --at 2h",
    "reject": "reject 4 --reason no",
    "mark-sent": "mark-sent 5 --note tea --yes",
    "look-up": "look-up 3",
    "edit": "edit 3 --subject tea --yes",
    "notify test": "notify test",
    "metrics": "metrics",
    "stats": "stats",
    "report": "report --html -",
    "doctor": "doctor",
    "init": "init --config new.toml --base-url http://127.0.0.1:9 --database-url {url}",
    "config show": "config show",
    "config check": "config check",
    "table describe": "table describe pending_messages",
    "table check": "table check",
    "table accept": "table accept --yes",
    "presets": "presets",
    "presets show": "presets show generic",
    "presets check": "presets check generic",
    "deliver-test": "deliver-test --ticket 7 --type customer --to ben@example.com --yes",
    "db erase": "db erase --ticket 7 --yes",
    "db upgrade": "db upgrade",
    "db prune": "db prune --older-than 1d --yes",
    "db move-check": "db move-check",
    "db index": "db index --yes",
    "cron print": f"cron print {' '.join(OWN)}",
    "cron install": f"cron install {' '.join(OWN)} --yes",
    "cron check": "cron check",
    "cron remove": "cron remove --user --yes",
    "serve token add": "serve token add ben --role viewer",
    "serve token list": "serve token list",
    "serve token remove": "serve token remove ben",
    "sandbox": "sandbox --port 0",
    "manual": "manual settings",
    "version": "version",
}
"""The command line of every command, in the order of the test; ``run-once`` and the commands in `LOOKING` run first."""
LOOKING = ("status", "list-failed", "show", "explain", "escalations", "passes", "stats", "metrics", "config show")
ELSEWHERE = {"demo", "serve"}
"""``demo`` uses its own example and reads no settings; `tests/web/test_leaks.py` tests ``serve``."""
AS_JSON = ("list-failed", "escalations", "config show")
ENDS_WITH = {"notify test": 3, "doctor": 3, "db move-check": 3, "retry": 3, "look-up": 4, "deliver-test": 3}
"""Exit codes of these commands. The others exit with 0."""

ADDRESSES = {"recipient", "cc", "bcc"}
MAY_SHOW = {
    "show": set(WORDS),  # the purpose of this command
    "the table's errors": ADDRESSES,  # an answer may name the address that it refuses
    "retrycli_acts": {"subject"},  # keeps the texts that an edit replaced
    "retrycli_attempts": ADDRESSES,
    "retrycli_queue": ADDRESSES,  # keeps the last error, to notice a new error from the application
    "list-failed": ADDRESSES | {"subject"},  # shows the recipient, the subject and the last error
    "escalations": ADDRESSES | {"subject"},
    "retry": ADDRESSES,
}
"""The marks that a command may show or a place may store; all other marks are leaks."""


def echo(status: int) -> Behaviour:
    """Return a behaviour that answers with the credentials, the whole request, and each of its texts."""

    def play(connection: Connection) -> None:
        assert connection.asked is not None
        sent, credentials = connection.asked.body.decode(), connection.asked.headers.get("authorization", "")
        texts = [json.dumps(value) if isinstance(value, list) else str(value) for value in json.loads(sent).values()]
        said = {"succeeded": False, "messages": [credentials, *texts, sent]}
        connection.send(http(status, json.dumps(said).encode()))

    return play


def short_echo(connection: Connection) -> None:
    """Answer with only the texts, short enough for a stored error."""
    assert connection.asked is not None
    sent = json.loads(connection.asked.body)
    said = {"messages": [f"{sent['subject']} to {sent['recipient']}: {sent['body']}"]}
    connection.send(http(422, json.dumps(said).encode()))


@contextmanager
def ticketing_api(*behaviours: Behaviour) -> Iterator[Hostile]:
    """Run an API that returns a token for any login."""
    token = json.dumps({"access_token": SECRETS["access token"]}).encode()
    with Hostile(*behaviours, at={LOG_IN: [answer(200, token)]}) as server:
        yield server


@dataclass(frozen=True)
class Scene:
    """An application, its settings with every possible secret, and the targets of notifications."""

    cli: Cli
    application: Application
    hook: Webhook

    @property
    def url(self) -> str:
        """Return the database's URL. PostgreSQL accepts any password in these tests, so the URL has a secret one."""
        there = make_url(self.application.url)
        if not self.application.is_sqlite:
            there = there.set(password=SECRETS["database password"])
        return there.render_as_string(hide_password=False)

    def add(self, *ids: int, **columns: str) -> None:
        """Add messages with marked texts in every column."""
        texts = {
            "subject": WORDS["subject"],
            "body": f"{WORDS['body']}\n\nmore of it",
            "recipient_email": WORDS["recipient"],
            "cc_emails": json.dumps([WORDS["cc"]]),
            "bcc_emails": json.dumps([WORDS["bcc"]]),
        }
        for message_id in ids:
            self.application.add(message_id, hours_ago=3, **texts | columns)

    def configure(self, api: str) -> None:
        """Write the settings, with each secret in a separate file if a setting allows that."""
        host, channel = self.hook.host, quote(SECRETS["channel password"], safe="")
        secrets = {
            "password": SECRETS["password"],
            "ping": f"http://{host}/{SECRETS['ping URL']}",
            "urls": f"mmost://{host}/{SECRETS['channel']}\njsons://anna:{channel}@127.0.0.1:9/{SECRETS['channel']}",
        }
        for name, text in secrets.items():
            (self.cli.cwd / name).write_text(text)
        (self.cli.cwd / "retrycli.toml").write_text(
            f'[database]\nurl = "{self.url}"\n'
            f'[gateway]\nbase_url = "{api}"\nauth = "login"\nusername = "anna"\npassword_file = "password"\n'
            f'[notify]\nurls_file = "urls"\nping_url_file = "ping"\n'
            f'[run]\nlock_file = "lock"\n[metrics]\npath = "retrycli.prom"\n[report]\npath = "report.html"\n'
            '[web]\ntokens_file = "tokens.json"\n'
        )

    def places(self) -> dict[str, str]:
        """Return the contents of retrycli's tables and files, the errors in the rows, and the notifications."""
        kept = {name: self.application.rows(name) for name in self.application.tables() if name.startswith("retrycli_")}
        errors = [row["last_error"] for row in self.application.rows().values()]
        files = ("lock", "retrycli.prom", "report.html", "crontab")
        return {
            **{name: repr(rows) for name, rows in kept.items()},
            "the table's errors": repr(errors),
            **{name: file.read_text() for name in files if (file := self.cli.cwd / name).exists()},
            "notifications": "\n".join(request.body.decode() for request in self.hook.requests),
        }

    def run_all(self, closed: int) -> dict[str, Finished]:
        """Run every command, and return the results by name."""
        fill = {"url": self.url, "closed": closed, "password": quote(SECRETS["database password"], safe="")}
        calls = {name: shlex.split(line.format(**fill)) for name, line in COMMANDS.items()}
        done = {"run-once": self.cli(*LOUD, *calls.pop("run-once"))}
        sandbox = calls.pop("sandbox")
        looks = {name: (*LOUD, *calls.pop(name)) for name in LOOKING}
        looks |= {f"{name} --json": (*looks[name], "--json") for name in AS_JSON}
        done |= {name: self.cli(*args) for name, args in looks.items()}
        done |= {name: self.cli(*LOUD, *args) for name, args in calls.items()}
        return done | {"sandbox": self._played(sandbox)}

    def _played(self, sandbox: list[str]) -> Finished:
        """Run the sandbox until it has received a message, and return its output."""
        process = self.cli.start(*LOUD, *sandbox)
        assert process.stdout is not None
        first = process.stdout.readline()
        url = first.split("at ")[1].split(";")[0]
        self.add(9)
        self.cli("retry", "9", env={"RETRYCLI_GATEWAY__BASE_URL": url, "RETRYCLI_GATEWAY__AUTH": "none"})
        process.send_signal(signal.SIGTERM)
        return end(process)


@pytest.fixture
def scene(prepared: Prepared, tmp_path: Path) -> Iterator[Scene]:
    folder = tmp_path
    proxy = f"http://anna:{quote(SECRETS['proxy password'], safe='')}@127.0.0.1:9"
    with prepared(folder) as application, webhook() as hook:
        cli = Cli(folder, Crontab(folder).variables | {"HTTPS_PROXY": proxy, "HOME": str(folder)})
        yield Scene(cli, application, hook)


def shown(done: Mapping[str, Finished]) -> dict[str, str]:
    """Return the stdout and stderr of each command as one text."""
    return {name: result.stdout + result.stderr for name, result in done.items()}


@pytest.mark.databases("postgresql")
def test_no_command_output_contains_a_marked_text(scene: Scene) -> None:
    scene.add(1, 2, 3, 4, 5)
    scene.add(6, cc_emails=json.dumps({"no list": WORDS["cc"]}))
    scene.add(7, attachments=json.dumps([WORDS["attachment"]]))
    with ticketing_api(echo(422), short_echo, echo(503), echo(200), short_echo) as api, closed_port() as closed:
        scene.configure(api.url)
        with a_cron(scene.cli.cwd):
            done = scene.run_all(closed)
        assert leaks(repr(api.requests)) >= {"password", "access token", "body", "subject", *ADDRESSES}
    codes = {name: result.returncode for name, result in done.items() if result.returncode}
    assert codes == ENDS_WITH, {name: done[name].stderr for name in codes}
    assert len(scene.hook.requests) > 2
    found: dict[str, set[str]] = {}
    for place, marks in leaking(shown(done) | scene.places()).items():
        found.setdefault(place.removesuffix(" --json"), set()).update(marks)
    assert {place: rest for place, marks in found.items() if (rest := marks - MAY_SHOW.get(place, set()))} == {}
    assert set(found) == set(MAY_SHOW)


def test_covers_every_command() -> None:
    assert set(all_commands()) == set(COMMANDS) | ELSEWHERE


# -- what goes wrong -------------------------------------------------------------------------------------------------

TOKEN = {"RETRYCLI_GATEWAY__AUTH": "bearer", "RETRYCLI_GATEWAY__TOKEN": SECRETS["gateway token"]}
PAIR = {"RETRYCLI_GATEWAY__AUTH": "basic", "RETRYCLI_GATEWAY__USERNAME": "anna"}
IN_A_URL = {name: quote(secret, safe="") for name, secret in SECRETS.items()}
WRONG = {
    "database": {"RETRYCLI_DATABASE__URL": f"mysql://anna:{IN_A_URL['database password']}@127.0.0.1/desk"},
    "database that is none": {"RETRYCLI_DATABASE__URL": f"postgresql://anna:{SECRETS['database password']}@:x/desk"},
    "base URL": {"TICKETING_API_BASE_URL": f"https://anna:{IN_A_URL['password']}@127.0.0.1"},
    "port": {"TICKETING_API_BASE_URL": f"https://anna:{SECRETS['password']}@127.0.0.1:port"},
    "token": TOKEN | {"RETRYCLI_GATEWAY__TOKEN": f"{SECRETS['gateway token']} and more"},
    "two tokens": TOKEN | {"RETRYCLI_GATEWAY__TOKEN_FILE": "password"},
    "unknown key": {"RETRYCLI_GATEWAY__TOKENS": SECRETS["gateway token"]},
    "no section": {"RETRYCLI_GATEWAY": SECRETS["gateway token"]},
    "channel": {"RETRYCLI_NOTIFY__URLS": f"{SECRETS['channel']} without a scheme"},
    "ping URL": {"RETRYCLI_NOTIFY__PING_URL": f"ftp://127.0.0.1/{SECRETS['ping URL']}"},
    "ping URL with a query": {"RETRYCLI_NOTIFY__PING_URL": f"http://127.0.0.1/?{SECRETS['ping URL']}"},
}
"""Invalid settings, each containing a secret."""


def garbage(connection: Connection) -> None:
    """Answer with text that is not HTTP and contains the credentials."""
    assert connection.asked is not None
    connection.send(f"{connection.asked.headers.get('authorization')} who?\r\n\r\n".encode())


@pytest.mark.databases("postgresql")
def test_no_error_contains_a_marked_text(scene: Scene) -> None:
    """Tracebacks are enabled, because their errors may quote values. The error of a constraint quotes the whole row."""
    scene.add(11, 12)
    loud = partial(scene.cli, *LOUD)
    with ticketing_api(echo(401)) as refuses, ticketing_api(garbage) as babbles, closed_port() as closed:
        scene.configure(refuses.url)
        gone = {"RETRYCLI_DATABASE__URL": f"postgresql://anna:{IN_A_URL['database password']}@127.0.0.1:{closed}/desk"}
        done = {name: loud("run-once", env=env) for name, env in {**WRONG, "gone": gone}.items()}
        assert {name: result.returncode for name, result in done.items()} == dict.fromkeys(WRONG, 78) | {"gone": 69}
        for name, auth in {"login": {}, "bearer": TOKEN, "basic": PAIR}.items():
            done[f"401 {name}"] = loud("run-once", env=auth)
            assert done[f"401 {name}"].returncode == 77
            done[f"no HTTP {name}"] = loud("doctor", env=auth | {"TICKETING_API_BASE_URL": babbles.url})
        done["garbage"] = loud("run-once", env=TOKEN | {"TICKETING_API_BASE_URL": babbles.url})
        done["nobody there"] = loud("retry", "11", env=TOKEN | {"TICKETING_API_BASE_URL": f"http://127.0.0.1:{closed}"})
    scene.application.execute("ALTER TABLE pending_messages ADD CHECK (status <> 'sent' AND subject <> 'tea')")
    with ticketing_api(answer(200, SUCCEEDED)) as api:
        done["constraint"] = loud("retry", "12", env={"TICKETING_API_BASE_URL": api.url})
        done["constraint on an edit"] = loud("edit", "11", "--subject", "tea", "--yes")
    assert (done["constraint"].returncode, done["constraint on an edit"].returncode) == (78, 4)
    assert all("Traceback" in result.stderr for result in done.values() if result.returncode in {69, 78})
    assert leaking(shown(done) | scene.places()) == {"retrycli_attempts": ADDRESSES}


# -- who else is on the machine -------------------------------------------------------------------------------------

PRYING = """
import sys
class Plugin:
    def new_schema_validator(self, *_args):
        print("a plugin has been asked", file=sys.stderr)
        return None, None, None
plugin = Plugin()
"""


def test_another_programs_pydantic_plugin_does_not_see_the_settings(tmp_path: Path) -> None:
    """A plugin of another program in the same environment sees the settings only if a variable enables it."""
    folder = tmp_path / "prying-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: prying\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("[pydantic]\nprying = prying:plugin\n")
    (tmp_path / "prying.py").write_text(PRYING)
    cli = Cli(tmp_path, TOKEN | {"PYTHONPATH": str(tmp_path)})
    done, wanted = cli("config", "show"), cli("config", "show", env={"PYDANTIC_DISABLE_PLUGINS": "another"})
    assert (done.returncode, wanted.returncode) == (0, 0), done.stderr + wanted.stderr
    assert "a plugin has been asked" in wanted.stderr
    assert done.stderr == ""
