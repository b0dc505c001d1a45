"""Record which tests reach each line, and find the tests of a mutant."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from difflib import SequenceMatcher
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path
from sqlite3 import connect

from coverage import CoverageData

from tests.interpreter import lasting_folder, make_environment
from tests.mutants.changes import SOURCES, Mutant
from tests.size import ROOT

PACKAGES = Path(sysconfig.get_path("purelib"))


@contextmanager
def new_folder() -> Iterator[Path]:
    """Provide a folder that other users can read, because some tests start commands as another user.

    It is not in /dev/shm, which some tests hide, nor in a folder for temporary files, where the tests' workers would
    get another interpreter than the one that measures.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-", dir=lasting_folder()) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def record(file: Path, arguments: Sequence[str]) -> int:
    """Run the suite, and write to a file which tests reach each line; return pytest's exit code."""
    with new_folder() as folder:
        python, packages = make_environment(folder / "venv", f"import site; site.addsitedir({str(PACKAGES)!r})")
        shutil.copy(Path(__file__).with_name("measure.py"), packages)
        start = "import contextlib; exec('with contextlib.suppress(Exception): import measure')"
        (packages / "start.pth").write_text(start)
        data = folder / "record"
        data.mkdir()
        data.chmod(0o777)
        find = [str(python), "-P", "-c", "import retrycli; print(*retrycli.__path__)"]
        installed = subprocess.run(find, capture_output=True, text=True, check=True).stdout.strip()
        (data / "include").write_text(f"{ROOT}/retrycli/*\n{installed}/*")
        command = [str(python), "-m", "pytest", "-p", "tests.mutants.hooks", *arguments]
        code = subprocess.run(command, cwd=ROOT, env=os.environ | {"MUTANTS_RECORD": str(data)}, check=False).returncode
        file.unlink(missing_ok=True)
        together = CoverageData(str(file))
        for each in data.glob("data.*"):
            part = CoverageData(str(each))
            part.read()
            together.update(part, map_path=lambda path: "retrycli" + path.rpartition("/retrycli")[2])
        if together.measured_contexts() <= {""}:
            sys.exit("error: no line was recorded for a test; does pytest run with the interpreter that measures?")
        together.close()
        seconds = [json.loads(line) for each in data.glob("seconds-*") for line in each.read_text().splitlines()]
    with closing(connect(file)) as database, database:
        database.execute("CREATE TABLE seconds (test TEXT PRIMARY KEY, seconds REAL)")
        database.executemany("INSERT OR REPLACE INTO seconds VALUES (?, ?)", seconds)
        database.execute("CREATE TABLE source (path TEXT PRIMARY KEY, text TEXT)")
        database.executemany("INSERT INTO source VALUES (?, ?)", SOURCES.items())
    return code


class Reached:
    """The recorded tests that reach a line. Other lines of its file may have changed since."""

    def __init__(self, file: Path) -> None:
        self._data = CoverageData(str(file))
        self._data.read()
        with closing(connect(file)) as database:
            self._seconds: dict[str, float] = dict(database.execute("SELECT test, seconds FROM seconds"))
            self._recorded: dict[str, str] = dict(database.execute("SELECT path, text FROM source"))
        self._by_line = cache(self._read)

    def _read(self, path: str) -> dict[int, set[str]]:
        tests = self._data.contexts_by_lineno(path)
        before, now = self._recorded.get(path, "").splitlines(), SOURCES[path].splitlines()
        same = SequenceMatcher(None, before, now, autojunk=False).get_matching_blocks()
        numbers = [(old + each + 1, new + each + 1) for old, new, length in same for each in range(length)]
        return {new: self._seconds.keys() & tests.get(old, ()) for old, new in numbers}

    def tests(self, mutant: Mutant) -> dict[str, float]:
        """Return the tests for a mutant and their seconds: the fastest of every file, then the second of every file.

        Files differ in what they notice more than the tests of one file do. If the condition of a branch is changed,
        tests that enter the branch and tests that do not take turns, because often the few notice it.
        """
        path, first = mutant.change.path, mutant.line
        if mutant.is_imported:  # a test that reaches the line may be any that imports the file first
            found = (
                self._at(path, mutant.body)
                or self._users(mutant.names)
                or self._at(path, range(1, SOURCES[path].count("\n") + 1))
            )
        else:
            nearby = range(first - 3, first)  # a process that is killed records nothing
            found = self._at(path, mutant.lines) or self._at(path, mutant.statement) or self._at(path, nearby)
        inside = found & self._at(path, mutant.branch)
        few, many = sorted((self._in_order(path, inside), self._in_order(path, found - inside)), key=len)
        turns = chain.from_iterable(zip_longest(few, many))
        return {test: self._seconds[test] for test in turns if test is not None}

    def _in_order(self, path: str, tests: Iterable[str]) -> list[str]:
        stem = Path(path).stem.strip("_")
        ordered = sorted(tests, key=lambda test: (self._seconds[test] * (0.3 if stem in test else 1), test))
        seen = Counter[str]()
        ranks = dict[str, int]()
        for test in ordered:
            ranks[test] = seen[file_of(test)]
            seen[file_of(test)] += 1
        return sorted(ordered, key=ranks.__getitem__)

    def _at(self, path: str, lines: Iterable[int]) -> set[str]:
        return set[str]().union(*(self._by_line(path).get(line, ()) for line in lines))

    def _users(self, names: Sequence[str]) -> set[str]:
        """Return the tests that reach a line with one of the names."""
        used = re.compile(rf"\b(?:{'|'.join(names)})\b" if names else "(?!)")
        files = {path: [*enumerate(text.splitlines(), 1)] for path, text in SOURCES.items() if used.search(text)}
        return set[str]().union(
            *(self._at(path, [number for number, line in lines if used.search(line)]) for path, lines in files.items())
        )


def file_of(test: str) -> str:
    """Return the file of a test."""
    return test.partition("::")[0]
