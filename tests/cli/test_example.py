"""The example database ``ticketing_agent.db.example``, which code generates and the wheel contains."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tomllib
from contextlib import closing
from itertools import chain
from pathlib import Path

import pytest

from retrycli.operations.demo import EXAMPLE, EXAMPLE_TIME, copy_example
from tests import constraints, example

ROOT = Path(__file__).parents[2]
FILE = ROOT / EXAMPLE


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """Provide a copy of the example, because SQLite creates two more files beside an open file in WAL mode."""
    return Path(shutil.copyfile(FILE, tmp_path / "shipped.db"))


def dump(file: Path) -> list[str]:
    """Return a database as SQL statements."""
    with closing(sqlite3.connect(file)) as connection:
        return list(connection.iterdump())


def one(file: Path, query: str) -> object:
    """Return the first value that a query finds."""
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(query).fetchone()[0]


def test_the_example_matches_its_code(shipped: Path, tmp_path: Path) -> None:
    """If this test fails, run ``python -m tests.example``."""
    built = tmp_path / "built.db"
    example.build(built)
    assert dump(built) == dump(shipped)


def test_the_example_is_in_wal_mode_and_intact(shipped: Path) -> None:
    assert one(shipped, "PRAGMA journal_mode") == "wal"
    assert one(shipped, "PRAGMA integrity_check") == "ok"
    assert not Path(f"{FILE}-wal").exists()


def test_the_wheel_contains_the_example_where_the_demo_expects_it() -> None:
    """Building a wheel takes too long here, so this test checks hatchling's configuration."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["force-include"] == {EXAMPLE: f"retrycli/{EXAMPLE}"}
    assert f"/{EXAMPLE}" in build["sdist"]["include"]


def test_the_constraints_name_each_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {
        re.split(r"[^\w-]", each)[0]
        for each in (*project["dependencies"], *chain(*project["optional-dependencies"].values()))
    }
    pinned = {line.partition("==")[0] for line in constraints.FILE.read_text().splitlines() if "==" in line}
    assert wanted - pinned == {"retrycli"}


def test_a_copy_has_its_times_moved_to_now(tmp_path: Path) -> None:
    """Messages that were due at the example's time are due in the demo too."""
    later = EXAMPLE_TIME.replace(year=2031)
    copied = copy_example(tmp_path / "new.db", now=later)
    ages = "SELECT julianday(?) - julianday(created_at) FROM pending_messages WHERE id = 16"
    with closing(sqlite3.connect(copied)) as connection:
        [(days,)] = connection.execute(ages, (later.replace(tzinfo=None).isoformat(sep=" "),))
    assert days == pytest.approx(2 / 24, abs=1e-6)
    assert one(copied, "PRAGMA journal_mode") == "wal"
