"""That the harness itself works; the figures are for `python -m tests.benchmarks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks import contenders, startup
from tests.benchmarks.database import add_due, count_sent
from tests.benchmarks.processes import Server, run
from tests.benchmarks.tables import table

if TYPE_CHECKING:
    from pathlib import Path


def test_bare_loop_delivers_each_message_once(tmp_path: Path) -> None:
    database = tmp_path / "messages.db"
    add_due(database, 50)
    with Server(delay_ms=0) as server:
        run(contenders.bare(8).call(database, server.url), tmp_path)
        server.expect(50, of="bare loop")
    assert count_sent(database) == 50


def test_imports_are_added_up_by_package() -> None:
    profile = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:       100 |        100 |   json.decoder\n"
        "import time:        20 |        120 | json\n"
        "import time:         3 |          3 | zlib\n"
    )
    assert startup.imports(profile) == {"json": 120, "zlib": 3}


def test_table_aligns_figures_to_the_right() -> None:
    lines = table("Title", ["", "ms"], [["bare loop", "7"], ["retrycli", "1,234"]]).splitlines()
    assert lines[2:] == [
        "|           |    ms |",
        "| --------- | ----: |",
        "| bare loop |     7 |",
        "| retrycli  | 1,234 |",
    ]
