"""Check that the benchmarks run. `python -m tests.benchmarks` measures the figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.benchmarks import contenders, cost, databases, engines, hosts, idle, keys, memory, throughput
from tests.benchmarks.processes import Server, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.databases import Databases


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Databases]:
    with databases.postgresql("for-a-test") as opened:
        yield opened


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def those(request: pytest.FixtureRequest, postgresql: Databases) -> Iterator[Databases]:
    if request.param == "postgresql":
        yield postgresql
        return
    with databases.sqlite() as opened:
        yield opened


def rows(report: str) -> list[list[str]]:
    """Return the table's cells, without its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in report.splitlines()[4:] if line]


def test_bare_loop_delivers_each_message_once(those: Databases) -> None:
    with Server(delay_ms=0) as server, those.database() as database:
        contenders.add_due(database, 50)
        run(contenders.bare(8).call(database, server.url))
        server.expect(50, of="bare loop")
        assert contenders.count_sent(database) == 50


@pytest.mark.long
def test_throughput_is_measured_at_each_concurrency(those: Databases) -> None:
    peer = contenders.post_office("2 threads", threads=2, batch=5)
    taking_part = {
        2: [contenders.retrycli(2, add=contenders.add_queued), contenders.bare(2), peer],
        5: [contenders.bare(5)],
    }
    found = rows(throughput.report(taking_part, those, 0, 5, rounds=1))
    assert [row[:2] for row in found] == [
        ["retrycli", "2"],
        ["bare loop", "2"],
        ["post-office, 2 threads", "2"],
        ["bare loop", "5"],
    ]
    assert [row[3] for row in found if row[0] == "bare loop"] == ["1.00", "1.00"]


@pytest.mark.long
def test_compares_two_engines(postgresql: Databases) -> None:
    with databases.sqlite() as files:
        found = rows(engines.report([files, postgresql], 0, 5, rounds=1))
    assert [row[:2] for row in found] == [
        ["retrycli", "SQLite"],
        ["retrycli", "PostgreSQL"],
        ["bare loop", "SQLite"],
        ["bare loop", "PostgreSQL"],
    ]
    assert [row[3] for row in found if row[1] == "SQLite"] == ["1.00", "1.00"]


@pytest.mark.long
def test_cost_of_a_claim_is_reported_by_step_and_batch(those: Databases) -> None:
    found = rows(cost.report(those, [3], 6, rounds=1))
    assert [row[:2] for row in found] == [[step, "3"] for step in ("claim", "begin", "record")]
    assert all(ours != "0" and theirs != "0" for _, _, ours, theirs, _ in found)


@pytest.mark.long
def test_memory_is_measured_against_the_length_of_the_queue(those: Databases) -> None:
    found = rows(memory.report(those, [3, 40], 5, rounds=1))
    assert [row[:2] for row in found] == [["3", "3"], ["40", "5"]]
    assert found[0][3] == "1.00"


@pytest.mark.long
def test_uuids_are_measured_against_integers(those: Databases) -> None:
    found = rows(keys.report(those, 5, rounds=1))
    assert [row[0] for row in found] == ["integers", "UUIDs"]
    assert found[0][4:] == ["1.00", "1.00", "1.00"]


@pytest.mark.long
def test_idle_passes_send_nothing() -> None:
    with databases.sqlite() as those:
        found = rows(idle.report(idle.contenders(million=False), those, rounds=1))
    assert [row[0] for row in found] == ["retrycli, empty table", "post-office, nothing queued"]


@pytest.mark.long
def test_hosts_send_each_message_once_between_them(postgresql: Databases) -> None:
    [[hosts_, _, to_one, _]] = rows(hosts.report(postgresql, [2], 20, rounds=1))
    assert (hosts_, to_one) == ("2", "1.00")
