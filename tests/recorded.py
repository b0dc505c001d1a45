"""Record what the program shows, in `tests/golden`, so that a change of its words or columns is read as a diff.

`Scenes` makes the queue that the commands, endpoints and pages are shown over, in the default table or in a mapped one.
`Scene.plain` makes output independent of the time, the machine and the user. `check` compares it with a file, or writes
the file if pytest has the option ``--record``.
"""

from __future__ import annotations

import difflib
import json
import random
import re
import shutil
import socket
import sqlite3
import tempfile
import uuid
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

import retrycli
from retrycli.config.loader import load
from retrycli.domain.passes import COUNTS, HoldKind, HoldTarget, StartedBy
from retrycli.operations import demo, message_actions, pause
from retrycli.operations.reliance import this_python
from retrycli.operations.sandbox import Answer, Behaviour, Sandbox
from retrycli.operations.table import accept
from retrycli.operations.wiring import Runtime
from retrycli.system.host import Host
from tests.cli.command import Cli
from tests.cli.schedulers import Crontab, a_cron
from tests.environment import free_port, in_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrycli.config.settings import Settings

GOLDEN = Path(__file__).with_name("golden")
PLACE = "/srv/ticketingdesk/run1"
"""What files show for the folder of a scene, which has a path of the same length."""
BEGAN = demo.EXAMPLE_TIME
"""When the last pass of a scene began. All times of a scene are multiples of five minutes, so that a time rounded up to
five minutes does not depend on the second in which a command runs."""
NOW = BEGAN + timedelta(minutes=7)
"""The time in a scene when a command runs. Files show it as ten past, because it is rounded up."""
STEP = timedelta(minutes=5)
TIME = re.compile(r"(\d{4}-\d\d-\d\d)([T ]| *\n *)(\d\d:\d\d)(:\d\d)?(\.\d+)?(Z| UTC|[+-]\d\d:\d\d)?")
DAY = re.compile(r"(?<=dates from )\d{4}-\d\d-\d\d\b(?! )")
AGE = re.compile(r'(_age_seconds(?:", "labels": \{\}, "value":)? )(\d+\.\d+)')
UUID = re.compile(r"\b[0-9a-f]{8}-(?!8a6c-4d2e)[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
"""A UUID that is not the key of a message in `demo.OUTBOX`."""
ANSWERS: dict[str, Answer] = {
    "4713": (503, {"messages": ["too busy"]}),
    "4714": (500, {"messages": ["out of memory"]}),
    "4716": (503, {"messages": ["too busy"]}),
    "4717": (504, {"messages": ["no answer from the mail server"]}),
    "4724": (422, {"messages": ["no such recipient: ivo@example.com"]}),
}
"""What the API answers to a delivery, by ticket. It accepts all others."""
MAPPED = demo.OUTBOX_SETTINGS + "\n[schedule.types.supplier]\nmax_retries = 1\n"
WIDTH = 150
"""JSON that fits into this width is one line."""


class _Api(Sandbox):
    def answer(self, method: str, path: str, key: str | None, body: bytes) -> Answer:
        if method == "POST" and (ticket := path.split("/")[2:3]) and ticket[0] in ANSWERS:
            return ANSWERS[ticket[0]]
        status, content = super().answer(method, path, key, body)
        return status, {**content, "id": 1} if "id" in content else content  # other scenes use the API too


@dataclass(frozen=True)
class Scene:
    """A fresh installation over the queue: settings, database, an empty crontab, and the command."""

    folder: Path
    now: datetime
    """The time for which files show `NOW`; it has no fraction of a second."""
    url: str
    """The URL of the ticketing API."""
    cli: Cli
    is_mapped: bool

    @property
    def settings(self) -> Settings:
        return load(self.folder / demo.CONFIG, {}).settings

    def id_of(self, number: int) -> str:
        """Return the id of a message of `tests.example`."""
        return key_of(number) if self.is_mapped else str(number)

    def plain(self, text: str) -> str:
        """Replace what depends on the time, the machine or the user by a constant, if possible of the same width."""
        known: dict[str, str] = {}
        login = Host().login
        for found, shown in (
            (re.escape(str(self.folder)), PLACE),
            (re.escape(self.url.removeprefix("http://")), "127.0.0.1:50123"),
            (re.escape(this_python()), "/usr/bin/python3"),
            (rf'("host": "){re.escape(socket.gethostname())}"', r'\g<1>mill"'),
            (rf"\bcrontab of {re.escape(login)}\b", "crontab of anna"),
            (rf'("user": "){re.escape(login)}"', r'\g<1>anna"'),
            (rf"(\* \*\t){re.escape(login)}\b", r"\g<1>anna"),
            (r"\bcron (print|install) --user( --run-as root)?", r"cron \g<1>"),  # root must name itself
            (r"\brcli_[\w-]{43}", f"rcli_{'x' * 43}"),
            (r"(\bpid\W{1,3})\d+", r"\g<1>4242"),
            (r'("duration_seconds": )[\d.]+', r"\g<1>0.1"),
            (r'("duration_ms": )\d+', r"\g<1>180"),
            (r"\bafter \d+\.\d s\b", "after 0.1 s"),
            (r"\breport\.html \(\d+ KiB\)", "report.html (24 KiB)"),  # the names of its days differ in length
            (
                r"began \d+ min(?: \d+ s)? ago; there should be one every\s+15\s+min",
                "began 7 min ago; there should be one every 15 min",
            ),
            (r"the database is on [\w.]+", "the database is on tmpfs"),
            (r"\bWyJ[\w-]{40,}", "WyJ1234567890"),  # a cursor with a time
            (r"\b1\.\d+e\+09|\b1\d{9}\.\d", f"{BEGAN.timestamp():.1f}"),
            # Bars of a chart begin at full hours.
            (r"(?m)^((?:Attempts|Delivered) +[\d,]+) [ ▁-█]*$", r"\g<1> (curve)"),
            (r"\n?(Delivering [━╸╺ ]+\d+/[\d?]+ [\d:]+\n)+\n?", "\n"),  # as often as the time permits
        ):
            text = re.sub(found, shown, text)
        text = AGE.sub(lambda at: f"{at[1]}{float(at[2]) // 60 * 60}", text)
        text = UUID.sub(lambda at: known.setdefault(at[0], f"{len(known) + 1:08}-0000-4000-8000-000000000000"), text)
        text = TIME.sub(self._constant_time, DAY.sub("2026-03-01", text))
        return "".join(f"{line.rstrip()}\n" for line in text.splitlines())

    def _constant_time(self, at: re.Match[str]) -> str:
        day, between, minute, second, fraction, zone = at.groups()
        if second is None and zone is None:  # an example in a text
            return at[0]
        time = datetime.fromisoformat(f"{day}T{minute}{second or ''}{(zone or 'Z').replace(' UTC', 'Z')}")
        offset = time.utcoffset() or timedelta()
        since = time - self.now + (NOW - BEGAN)
        if abs(since) > timedelta(days=400):
            return at[0]
        then = BEGAN + -(-since // STEP) * STEP + offset
        parts = re.sub(r"\d", "0", f"{second or ''}{fraction or ''}")
        return f"{then:%Y-%m-%d}{between}{then:%H:%M}{parts}{zone or ''}"


def key_of(number: int) -> str:
    """Return the key that `demo.OUTBOX` gives to a message of `tests.example`."""
    return f"{number * 2654435761 % 2**32:08x}-8a6c-4d2e-9f10-{number:012x}"


class Scenes:
    """Make scenes. The queue of each table is built once, at `BEGAN`, and copied for each scene with shifted times."""

    def __enter__(self) -> Self:
        with ExitStack() as until_the_end:
            base = in_memory() or Path(tempfile.gettempdir())
            # The name of a scene's folder fills the path up to the length of `PLACE`.
            self._root = Path(until_the_end.enter_context(tempfile.TemporaryDirectory(prefix="r", dir=base)))
            self._api = until_the_end.enter_context(_Api(Behaviour(), rng=random.Random(0), port=free_port()))
            until_the_end.enter_context(a_cron(self._root))
            self._number = 0
            self._templates: dict[bool, Path] = {}
            self._until_the_end = until_the_end.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._until_the_end.close()

    @contextmanager
    def open(self, *, is_mapped: bool = False) -> Iterator[Scene]:
        """Make a scene over the default table, or over the mapped one."""
        if is_mapped not in self._templates:
            self._templates[is_mapped] = self._template(is_mapped=is_mapped)
        template, scene = self._templates[is_mapped], self._scene(is_mapped=is_mapped)
        database = scene.folder / demo.DATABASE
        shutil.copy(template / demo.DATABASE, database)
        with closing(sqlite3.connect(database)) as connection:
            _shift(connection, scene.now - NOW)
        try:
            yield scene
        finally:
            shutil.rmtree(scene.folder)

    def _scene(self, *, is_mapped: bool) -> Scene:
        self._number += 1
        folder = self._root / f"{self._number:0{len(PLACE) - len(str(self._root)) - 1}}"
        folder.mkdir(0o700)
        assert len(str(folder)) == len(PLACE), f"the path of the temporary folder is too long: {folder}"
        settings = (
            f'[database]\nurl = "sqlite:///{demo.DATABASE}"\n'
            + ('table = "outbox"\n' + MAPPED if is_mapped else "")
            + f'\n[gateway]\nbase_url = "{self._api.url}"\n\n[schedule]\njitter = 0\n\n[run]\nconcurrency = 1\n'
            '\n[web]\ntokens_file = "tokens.json"\n'
        )
        (folder / demo.CONFIG).write_text(settings, encoding="utf-8")
        environment = {**Crontab(folder).variables, "TZ": "UTC", "LOGNAME": "anna", "HOME": str(folder)}
        now = datetime.now(UTC).replace(second=0, microsecond=0)  # predictions are rounded to the minute
        return Scene(folder, now, self._api.url, Cli(folder, environment), is_mapped)

    def _template(self, *, is_mapped: bool) -> Path:
        scene = self._scene(is_mapped=is_mapped)
        settings, at = scene.settings, Runtime(now=lambda: BEGAN, rng=random.Random(0))
        database = demo.copy_example(scene.folder / demo.DATABASE, now=BEGAN)
        if is_mapped:
            with closing(sqlite3.connect(database)) as connection:
                _drop_own_tables(connection)
                connection.executescript(demo.OUTBOX)
            accept(settings, by="anna", at=BEGAN)
        retrycli.run_once(settings, runtime=at, started_by=StartedBy.CRON)
        noted = scene.id_of(7 if is_mapped else 9)
        message_actions.note(settings, noted, "asked the supplier for another address", by="anna", runtime=at)
        message_actions.acknowledge(settings, [scene.id_of(16)], by="bert", runtime=at)
        part = HoldTarget(HoldKind.TICKET, "4713")
        pause.pause(settings, target=[part], reason="wrong price", by="anna", now=at.now)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("UPDATE retrycli_attempts SET duration_ms = 180")
            # On another host, cron may still run. From four starts, the next pass is predicted without the clock.
            connection.execute("UPDATE retrycli_passes SET host = 'mill'")
            columns = [row[1] for row in connection.execute("PRAGMA table_info(retrycli_passes)")]
            for number in (1, 2, 3):
                began = str((BEGAN - number * timedelta(minutes=15)).replace(tzinfo=None)) + ".000000"
                times = dict.fromkeys(("started_at", "heartbeat_at", "finished_at"), f"'{began}'")
                times |= {"id": f"'{uuid.UUID(int=number)}'"} | dict.fromkeys(COUNTS, "0")
                values = ", ".join(times.get(name, name) for name in columns)
                connection.execute(f"INSERT INTO retrycli_passes SELECT {values} FROM retrycli_passes LIMIT 1")
            # A message that has failed since then is due.
            failed = "outbox SET state = 2" if is_mapped else "pending_messages SET status = 'failed'"
            connection.execute(f"UPDATE {failed} WHERE {'ticket' if is_mapped else 'ticket_id'} = 4722")
            connection.commit()
        return scene.folder


def _drop_own_tables(connection: sqlite3.Connection) -> None:
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'retrycli_*'")
    for (name,) in tables.fetchall():
        connection.execute(f"DROP TABLE {name}")


def _shift(connection: sqlite3.Connection, by: timedelta) -> None:
    for table, column in connection.execute(demo.TIME_COLUMNS).fetchall():
        shifted = f"strftime('%Y-%m-%d %H:%M:%f', {column}, '{by.total_seconds():+.0f} seconds')"
        connection.execute(f"UPDATE {table} SET {column} = {shifted} WHERE {shifted} IS NOT NULL")
    connection.commit()


def readable(text: str) -> str:
    """Lay a JSON object out in lines of at most `WIDTH` characters, so that a diff of it can be read."""
    return "\n".join(_laid_out(json.loads(text), "", ""))


def _laid_out(value: Any, indent: str, name: str) -> list[str]:  # noqa: ANN401  any JSON value
    line = f"{indent}{name}{json.dumps(value, ensure_ascii=False)}"
    if len(line) <= WIDTH or not isinstance(value, dict | list) or not value:
        return [line]
    start, end = "{}" if isinstance(value, dict) else "[]"
    lines = [f"{indent}{name}{start}"]
    parts = [(f"{json.dumps(key)}: ", part) for key, part in value.items()] if isinstance(value, dict) else None
    kept = ""
    for key, part in parts or [("", each) for each in value]:
        first, *rest = _laid_out(part, indent + " ", key)
        if rest or not kept or len(f"{kept}, {first}") > WIDTH or isinstance(part, dict):
            lines += [kept] * bool(kept)
            kept = ""
        if rest:
            lines += [first, *rest]
        else:
            kept = f"{kept}, {first.strip()}" if kept else first
    lines += [kept] * bool(kept)
    return [*lines[:-1], lines[-1] + end]


def check(config: pytest.Config, name: str, text: str) -> None:
    """Compare a text with the file of this name in `GOLDEN`; with the option ``--record``, write the file."""
    file = GOLDEN / f"{name}.txt"
    if config.getoption("record"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return
    recorded = file.read_text(encoding="utf-8") if file.exists() else ""
    if text != recorded:
        lines = difflib.unified_diff(recorded.splitlines(), text.splitlines(), "recorded", "now", lineterm="")
        title = f"tests/golden/{name}.txt says something else. If the change is meant, add --record and read the diff."
        pytest.fail("\n".join([title, *lines]), pytrace=False)


def recorded(folder: str) -> set[str]:
    """Return the names of all files in a folder of `GOLDEN`."""
    return {file.stem for file in (GOLDEN / folder).iterdir()}
