"""Prometheus' text format, and how the metrics file is replaced."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread

import pytest
from prometheus_client.parser import text_string_to_metric_families

from retrycli.domain.errors import ConfigurationError
from retrycli.store.schema import HEAD
from retrycli.views.prometheus import Values, samples, text, write

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
NOTHING_YET: dict[str, Values] = {
    "retrycli_build_info": {("0.1.0", HEAD): 1},
    "retrycli_retry_interval_seconds": 900,
    "retrycli_first_pass_start_timestamp_seconds": None,
    "retrycli_last_pass_start_timestamp_seconds": None,
    "retrycli_last_pass_duration_seconds": None,
    "retrycli_last_success_timestamp_seconds": None,
    "retrycli_passes": {"completed": 0, "skipped": 0},
    "retrycli_attempts": {"delivered": 0, "refused": 0},
    "retrycli_messages": {("waiting", "customer"): 0},
    "retrycli_due_messages": 0,
    "retrycli_oldest_waiting_age_seconds": 0,
    "retrycli_oldest_escalated_age_seconds": 0,
    "retrycli_oldest_unacknowledged_age_seconds": 0,
    "retrycli_paused": False,
    "retrycli_breaker_open": {},
}
AT_WORK: dict[str, Values] = NOTHING_YET | {
    "retrycli_first_pass_start_timestamp_seconds": NOON - timedelta(days=400),
    "retrycli_last_pass_start_timestamp_seconds": NOON,
    "retrycli_last_pass_duration_seconds": 1.5,
    "retrycli_last_success_timestamp_seconds": NOON,
    "retrycli_passes": {"completed": 7, "skipped": 1},
    "retrycli_attempts": {"delivered": 2**53, "refused": 1},
    "retrycli_messages": {("waiting", "customer"): 3, ("escalated", "supplier"): 1},
    "retrycli_due_messages": 2,
    "retrycli_oldest_waiting_age_seconds": 3600.25,
    "retrycli_oldest_escalated_age_seconds": 7200,
    "retrycli_oldest_unacknowledged_age_seconds": 60,
    "retrycli_paused": True,
    "retrycli_breaker_open": {"tickets.example.com": True},
}


def read(content: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Parse the text format, and return each sample's value by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(content)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_every_value_has_a_sample() -> None:
    assert read(text(AT_WORK)) == {
        key("retrycli_build_info", version="0.1.0", tables=HEAD): 1,
        key("retrycli_retry_interval_seconds"): 900,
        key("retrycli_first_pass_start_timestamp_seconds"): (NOON - timedelta(days=400)).timestamp(),
        key("retrycli_last_pass_start_timestamp_seconds"): NOON.timestamp(),
        key("retrycli_last_pass_duration_seconds"): 1.5,
        key("retrycli_last_success_timestamp_seconds"): NOON.timestamp(),
        key("retrycli_passes_total", result="completed"): 7,
        key("retrycli_passes_total", result="skipped"): 1,
        key("retrycli_attempts_total", outcome="delivered"): 2**53,
        key("retrycli_attempts_total", outcome="refused"): 1,
        key("retrycli_messages", state="waiting", type="customer"): 3,
        key("retrycli_messages", state="escalated", type="supplier"): 1,
        key("retrycli_due_messages"): 2,
        key("retrycli_oldest_waiting_age_seconds"): 3600.25,
        key("retrycli_oldest_escalated_age_seconds"): 7200,
        key("retrycli_oldest_unacknowledged_age_seconds"): 60,
        key("retrycli_paused"): 1,
        key("retrycli_breaker_open", destination="tickets.example.com"): 1,
    }


def test_missing_values_have_no_sample_and_counters_start_at_zero() -> None:
    """Without a pass, a timestamp of 0 would report a pass in 1970."""
    found = read(text(NOTHING_YET))
    missing = {name for name, _ in read(text(AT_WORK))} - {name for name, _ in found}
    assert missing == {
        "retrycli_first_pass_start_timestamp_seconds",
        "retrycli_last_pass_start_timestamp_seconds",
        "retrycli_last_pass_duration_seconds",
        "retrycli_last_success_timestamp_seconds",
        "retrycli_breaker_open",
    }
    assert found[key("retrycli_attempts_total", outcome="delivered")] == 0
    assert found[key("retrycli_paused")] == 0
    assert all(name.startswith("retrycli_") for name, _ in found)


def test_samples_for_programs_equal_those_in_the_text() -> None:
    found = samples(AT_WORK)
    assert all(list(entry) == ["name", "labels", "value"] for entry in found)
    pairs = [(str(entry["name"]), entry["labels"], entry["value"]) for entry in found]
    assert {key(name, **labels): value for name, labels, value in pairs if isinstance(labels, dict)} == read(
        text(AT_WORK)
    )


def test_promtool_accepts_the_text() -> None:
    """The program checks that names, units and help follow Prometheus' conventions."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    for each in (AT_WORK, NOTHING_YET):
        done = subprocess.run(
            [promtool, "check", "metrics"], input=text(each), capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_reader_never_sees_a_partial_file_nor_another_that_the_collector_reads(tmp_path: Path) -> None:
    """The collector reads files that end in .prom, so temporary files must have other names."""
    path = tmp_path / "retrycli.prom"
    contents = [f"{letter * 100_000}\n" for letter in "ab"]
    write(path, contents[0])
    over = Event()

    def keep_writing() -> None:
        while not over.is_set():
            for content in contents:
                write(path, content)

    writer = Thread(target=keep_writing)
    writer.start()
    names: set[str] = set()
    try:
        seen = {path.read_text() for _ in range(2000)}
        while writer.is_alive() and names <= {path.name}:
            names.update(each.name for each in tmp_path.iterdir())
    finally:
        over.set()
        writer.join()
    assert seen == set(contents)
    assert {name for name in names if name.endswith(".prom")} == {path.name} < names
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (
            "no/retrycli.prom",
            "No such file or directory; create the folder {path.parent}, "
            "or use the one that node_exporter's textfile collector reads",
        ),
        ("folder", "Is a directory; name a file in that folder"),
        ("file/retrycli.prom", "Not a directory; check the folder {path.parent}"),
    ],
)
def test_a_place_for_no_file_is_named_with_a_remedy_and_left_alone(tmp_path: Path, place: str, why: str) -> None:
    path = tmp_path / place
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError) as refused:
        write(path, "one\n")
    assert str(refused.value) == f"metrics.path: can't write {path}: {why.format(path=path)}"
    assert {each.name for each in tmp_path.rglob("*")} == {"folder", "file"}
