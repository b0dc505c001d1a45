"""Run the tests of mutants in a copy of the project, with an environment whose processes import the copy."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import islice
from math import inf
from multiprocessing.util import Finalize
from pathlib import Path
from typing import NamedTuple

from tests.environment import in_memory
from tests.interpreter import make_environment
from tests.mutants.changes import Mutant
from tests.mutants.recording import PACKAGES, file_of
from tests.size import ROOT

NOT_COPIED = (".git", ".venv*", ".*_cache", "__pycache__", ".coverage*", ".hypothesis", "*.egg-info", "build", "dist")
PLUGINS = [f"-p{name}" for name in ("xdist", "pytest_timeout") if find_spec(name) is not None]
"""The plugins of pytest that the tests need. Importing all that are installed takes longer than most tests."""
HANGS_AFTER, CONFIRMATION = 10.0, 300.0
"""Seconds for a test beyond five times its recorded duration, and for tests without a change."""
FIRST_FILES, TESTS_PER_FILE = 5, 8
"""The size of a mutant's first run. Each further run is three times as large."""
PR_SET_CHILD_SUBREAPER = 36


class Ran(NamedTuple):
    """What a run of tests found."""

    failed: str | None
    """The first test that failed; a file if it can't be imported; empty if pytest itself failed."""
    hung: list[str]
    """Tests that exceeded a time limit."""
    begun: int
    """The number of tests that began."""


class Job:
    """A copy of the project in which one process tests mutants."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(dir=folder))
        self._folder.chmod(0o755)
        self._project = self._folder / "project"
        shutil.copytree(ROOT, self._project, ignore=shutil.ignore_patterns(*NOT_COPIED))
        self._python, _ = make_environment(self._folder / "venv", str(self._project), str(PACKAGES))
        self._databases = tempfile.mkdtemp(prefix="mutants-", dir=in_memory())
        Finalize(self, shutil.rmtree, [self._databases], exitpriority=0)
        self._changes = 0
        self._reliable: dict[str, bool] = {}
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans of the tests become our children

    def judge(self, mutant: Mutant, tests: Mapping[str, float], limit: float) -> tuple[str, str]:
        """Run tests until one fails that passes without the change.

        Args:
            mutant: the change.
            tests: the recorded duration of each test, in seconds.
            limit: seconds for all tests.

        Returns:
            ``killed``, ``survived`` or ``hung``, and a note.
        """
        end, size, begun, hung = time.monotonic() + limit, FIRST_FILES, 0, list[str]()
        left = [test for test in tests if self._reliable.get(test, True)]
        while left and (seconds := end - time.monotonic()) > 0:
            files = set(islice(dict.fromkeys(map(file_of, left)), size))
            now = [test for test in left if file_of(test) in files][: size * TESTS_PER_FILE]
            with self._changed(mutant):
                ran = self._run({test: tests[test] for test in now}, seconds)
            if ran.failed is not None and self._passes(ran.failed, now):
                return "killed", ran.failed or "pytest can't start"
            size, begun, hung = 3 * size, begun + ran.begun, hung + ran.hung
            left = [test for test in left if test not in now[: ran.begun] and ran.failed not in {test, file_of(test)}]
        return ("hung", hung[0]) if hung else ("survived", f"{begun} of {len(tests)} tests")

    def _passes(self, failed: str, before: list[str]) -> bool:
        """Return True if a test passes without a change, after the same tests, or if its file can be imported."""
        if failed not in self._reliable:
            tests = before[: before.index(failed) + 1] if failed in before else [failed or before[0]]
            self._reliable[failed] = self._run(dict.fromkeys(tests, inf), CONFIRMATION).failed is None
        return self._reliable[failed]

    @contextmanager
    def _changed(self, mutant: Mutant) -> Iterator[None]:
        """Change the file of a mutant. Give it a new modification time, so that Python compiles it again."""
        file = self._project / mutant.change.path
        before, modified = file.read_text(), file.stat().st_mtime
        self._changes += 1
        file.write_text(mutant.text)
        os.utime(file, (modified + self._changes,) * 2)
        try:
            yield
        finally:
            file.write_text(before)
            os.utime(file, (modified, modified))

    def _run(self, tests: Mapping[str, float], limit: float) -> Ran:
        plan, log = self._folder / "tests", self._folder / "log"
        plan.write_text(json.dumps([*tests]))
        log.write_text("")
        options = ("-p", "tests.mutants.hooks", "-p", "no:cacheprovider", *PLUGINS, "-q", "-n0", "--basetemp")
        with (self._folder / "output").open("w") as output:
            process = subprocess.Popen(
                [self._python, "-m", "pytest", *options, self._databases, *dict.fromkeys(map(file_of, tests))],
                cwd=self._project,
                env=os.environ | {"MUTANTS_TESTS": str(plan), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(limit)
                events = [json.loads(line) for line in log.read_text().splitlines()]
                if (code := process.poll()) is None:  # the events are read before this signal, which makes tests fail
                    process.send_signal(signal.SIGINT)
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(15)  # to stop its servers
            finally:
                _end_children()
        failed, hung, begun = (
            [test for event, test, _ in events if event == kind] for kind in ("failed", "hung", "begun")
        )
        if code is None and events and not failed:
            _, test, since = events[-1]
            hung += [test] if time.monotonic() - since > HANGS_AFTER + 5 * tests.get(test, 0) else []
        elif code not in {None, 0, 1, 5} and not failed:  # 5: none of the recorded tests exists any more
            failed = [""]
        return Ran(failed[0] if failed else None, hung, len(begun))


def _end_children() -> None:
    """Kill the processes that tests left behind. The children of a killed process become ours."""
    while children := [*_children()]:
        for pid in children:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _children() -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                yield int(stat.parent.name)
