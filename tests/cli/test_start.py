"""cron starts a new process every time: limit what a start may load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.benchmarks import contenders
from tests.benchmarks.contenders import NOWHERE, add_waiting
from tests.benchmarks.processes import Call, Sample, Server, run

if TYPE_CHECKING:
    from pathlib import Path

WEB = {"fastapi", "starlette", "uvicorn", "jinja2", "itsdangerous"}
"""The libraries of the console and the HTTP API, which no other command may load."""


def modules(sample: Sample) -> set[str]:
    """Return the modules that a process run with ``-X importtime`` has imported."""
    lines = [line for line in sample.output.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def loaded(sample: Sample) -> set[str]:
    """Return the top-level packages that a process run with ``-X importtime`` has imported."""
    return {name.partition(".")[0] for name in modules(sample)}


def with_import_times(call: Call) -> Call:
    return Call(("-X", "importtime", *call.arguments), call.environment)


@pytest.mark.parametrize("arguments", [("--help",), ("run-once", "--help"), ("version",)])
def test_help_loads_neither_the_database_nor_the_http_client(arguments: tuple[str, ...]) -> None:
    packages = loaded(run(Call(("-X", "importtime", "-m", "retrycli", *arguments))))
    assert "typer" in packages
    assert packages.isdisjoint({"sqlalchemy", "httpx", "aiohttp", "alembic", *WEB})


def test_an_idle_pass_loads_no_delivery_modules(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/messages.db"
    ours = contenders.retrycli(8, add=add_waiting)
    ours.add(database, 10)
    run(ours.call(database, NOWHERE))  # creates the tables, for which it loads Alembic
    sample = run(with_import_times(ours.call(database, NOWHERE)))
    packages = loaded(sample)
    assert "sqlalchemy" in packages
    assert packages.isdisjoint(
        {"httpx", "aiohttp", "httpx_aiohttp", "alembic", "rich", "tenacity", "apprise", "requests", *WEB}
    )
    assert not [name for name in modules(sample) if name.startswith("retrycli.web")]


def test_no_other_command_loads_the_console(tmp_path: Path) -> None:
    """The help of all commands imports all modules of `retrycli.cli`. The others show what the operations import."""
    database = f"sqlite:///{tmp_path}/messages.db"
    ours = contenders.retrycli(8, add=add_waiting)
    ours.add(database, 10)
    run(ours.call(database, NOWHERE))  # creates the tables
    for words in (("--help",), ("status",), ("list-failed",), ("show", "1"), ("escalations",), ("stats",), ("passes",)):
        call = Call(("-X", "importtime", "-m", "retrycli", *words), {"RETRYCLI_DATABASE__URL": database})
        sample = run(call)
        assert loaded(sample).isdisjoint(WEB), words
        assert not [name for name in modules(sample) if name.startswith("retrycli.web")], words


def test_a_delivery_loads_no_other_command_line_modules(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/messages.db"
    ours = contenders.retrycli(8)
    ours.add(database, 0)
    run(ours.call(database, NOWHERE))  # creates the tables, for which it loads Alembic
    ours.add(database, 1)
    with Server(delay_ms=0) as server:
        packages = loaded(run(with_import_times(ours.call(database, server.url))))
        server.expect(1, of="retrycli")
    assert "httpx" in packages
    assert packages.isdisjoint({"click", "rich", "pygments"})
