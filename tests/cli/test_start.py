"""cron starts a new process every time: limit what a start may load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.benchmarks import contenders
from tests.benchmarks.contenders import NOWHERE, add_waiting
from tests.benchmarks.processes import Call, Server, run

if TYPE_CHECKING:
    from pathlib import Path

WEB = {"fastapi", "starlette", "uvicorn", "jinja2", "itsdangerous"}
"""The libraries of the console and the HTTP API, which no other command may load."""


def modules(call: Call) -> set[str]:
    """Return the modules that a process imports, and their top-level packages."""
    sample = run(Call(("-X", "importtime", *call.arguments), call.environment))
    lines = [line for line in sample.output.splitlines() if line.startswith("import time:")]
    names = {line.rpartition("|")[2].strip() for line in lines}
    return names | {name.partition(".")[0] for name in names}


def test_help_loads_neither_the_database_nor_the_http_client() -> None:
    for arguments in (("run-once", "--help"), ("version",)):
        packages = modules(Call(("-m", "retrycli", *arguments)))
        assert "typer" in packages
        assert packages.isdisjoint({"sqlalchemy", "httpx", "aiohttp", "alembic", *WEB})


DELIVERY = {"httpx", "aiohttp", "httpx_aiohttp", "alembic", "rich", "tenacity", "apprise", "requests"}


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Provide the URL of a database with ten waiting messages and retrycli's tables, which Alembic creates."""
    url = f"sqlite:///{tmp_path}/messages.db"
    ours = contenders.retrycli(8, add=add_waiting)
    ours.add(url, 10)
    run(ours.call(url, NOWHERE))
    return url


def test_an_idle_pass_loads_no_delivery_modules(database: str) -> None:
    packages = modules(contenders.retrycli(8, add=add_waiting).call(database, NOWHERE))
    assert "sqlalchemy" in packages
    assert packages.isdisjoint(DELIVERY | WEB | {"retrycli.web"})


def test_no_other_command_loads_the_console(database: str) -> None:
    """The help of all commands imports all modules of `retrycli.cli`. The others show what the operations import."""
    for words in (("--help",), ("status",), ("list-failed",), ("show", "1"), ("escalations",), ("stats",), ("passes",)):
        packages = modules(Call(("-m", "retrycli", *words), {"RETRYCLI_DATABASE__URL": database}))
        assert packages.isdisjoint(WEB | {"retrycli.web"}), words


def test_a_delivery_loads_no_other_command_line_modules(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/messages.db"
    ours = contenders.retrycli(8)
    ours.add(database, 0)
    run(ours.call(database, NOWHERE))  # creates the tables, for which it loads Alembic
    ours.add(database, 1)
    with Server(delay_ms=0) as server:
        packages = modules(ours.call(database, server.url))
        server.expect(1, of="retrycli")
    assert "httpx" in packages
    assert packages.isdisjoint({"click", "rich", "pygments"})
