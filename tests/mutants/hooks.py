"""Hooks of pytest: run the tests of a mutant and report what fails, or record the duration of each test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from coverage import Coverage

PLAN, RECORD = os.environ.get("MUTANTS_TESTS"), os.environ.get("MUTANTS_RECORD")
"""The file with the tests of a mutant, and the folder for a recording."""
TOO_LATE = re.compile("Timeout|it never came")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Select and sort the tests of a mutant."""
    if PLAN is not None:
        order = {test: number for number, test in enumerate(json.loads(Path(PLAN).read_text()))}
        items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Report a test file that can't be imported."""
    report = yield
    if report.failed:
        _tell("failed", report.nodeid)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report a failed test, and end the run unless the test only took too long."""
    report = yield
    if report.failed and PLAN is not None:
        error = call.excinfo.value if call.excinfo is not None else None
        is_late = isinstance(error, TimeoutError | subprocess.TimeoutExpired) or TOO_LATE.search(str(error))
        _tell("hung" if is_late else "failed", item.nodeid)
        item.session.shouldfail = not is_late and "a test has failed"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Tell the measurement which test runs, and record how long it takes."""
    _tell("begun", item.nodeid)
    if RECORD is None or (measuring := Coverage.current()) is None:
        return (yield)
    place, began = Path(RECORD), time.monotonic()
    (place / f"test-{os.getpid()}").write_text(item.nodeid)
    measuring.switch_context(item.nodeid)
    try:
        return (yield)
    finally:
        measuring.switch_context("")
        with (place / f"seconds-{os.getpid()}").open("a") as file:
            print(json.dumps([item.nodeid, time.monotonic() - began]), file=file)


def _tell(event: str, test: str) -> None:
    if PLAN is not None:
        with Path(PLAN).with_name("log").open("a") as file:
            print(json.dumps([event, test, time.monotonic()]), file=file)
