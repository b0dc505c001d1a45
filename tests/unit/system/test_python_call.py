"""Functions of the application: they are found, imported, checked and called, and each problem is one clear line."""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.retry_policy import NoWait, TooSlow
from retrycli.system import python_call
from retrycli.system.python_call import ScheduleFunction

DOWN = Outcome(OutcomeKind.TRANSIENT, 503, "HTTP 503")
NUMBERS = itertools.count(1)


@pytest.fixture(autouse=True)
def own_search_path() -> Iterator[None]:
    before = [*sys.path]
    yield
    sys.path[:] = before


def module(folder: Path, code: str) -> str:
    """Write a module with a new name, because Python imports a name only once; return the name."""
    name = f"waits_{next(NUMBERS)}"
    (folder / f"{name}.py").write_text(code)
    return name


def refusal(name: str, folder: Path | None, *takes: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        python_call.load(name, "gateway.call", folder, takes or ("message",))
    return str(raised.value)


# -- load ----------------------------------------------------------------------------------------------------------


def test_a_module_that_does_not_exist_is_named(tmp_path: Path) -> None:
    assert refusal("desk_gone.messages:send", tmp_path) == (
        f"gateway.call: no module desk_gone in {tmp_path} or the packages of {sys.executable}; "
        "set gateway.modules_dir to the folder that contains it"
    )
    assert refusal("desk_gone:send", None).startswith("gateway.call: no module desk_gone in the packages of ")
    (tmp_path / "desk_here").mkdir()
    assert "no module desk_here.messages in" in refusal("desk_here.messages:send", tmp_path)
    assert "no module desk_gone in" in refusal("desk_gone:send", tmp_path / "none")


def test_a_folder_that_other_users_may_change_is_refused(tmp_path: Path) -> None:
    """A module there would be refused too, but without the setting's name."""
    (folder := tmp_path / "open").mkdir()
    folder.chmod(0o777)
    assert refusal("desk_gone:send", folder).startswith("gateway.modules_dir: ")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise KeyError('hush-hush')", "raised KeyError; to see why, run"),
        ("import desk_gone", "raised ModuleNotFoundError (no module desk_gone); to see why, run"),
        ("from os import gone", "raised ImportError; to see why, run"),
        ("def", "raised SyntaxError; to see why, run"),
        ("import sys; sys.exit('hush-hush')", "raised SystemExit; to see why, run"),
    ],
)
def test_an_import_that_fails_is_told_by_its_class_alone(code: str, said: str, tmp_path: Path) -> None:
    name = module(tmp_path, code)
    text = refusal(f"{name}:send", tmp_path)
    assert text.startswith(f"gateway.call: importing {name} {said}")
    assert text.endswith(f"`cd {tmp_path} && {sys.executable} -c 'import {name}'`")
    assert "hush" not in text


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1", "has no send; write MODULE:FUNCTION"),
        ("send = 1", "is a value of type int; name a function"),
        ("class send: pass", "is a class; name a function"),
        ("def send(message): yield", "is a generator, which does nothing when it is called"),
        ("async def send(message): yield", "is a generator, which does nothing when it is called"),
        ("def send(a, b): pass", "has the wrong signature; let it take message, by position"),
        ("def send(*, message): pass", "has the wrong signature; let it take message, by position"),
        ("def __getattr__(name): raise KeyError(name)", "raised KeyError"),
    ],
)
def test_a_function_that_can_not_be_called_is_refused(code: str, said: str, tmp_path: Path) -> None:
    assert said in refusal(f"{module(tmp_path, code)}:send", tmp_path)


@pytest.mark.parametrize(
    "code",
    [
        "def send(message): pass",
        "def send(*args): pass",
        "async def send(message): pass",
        "send = print",
        "send = dict.fromkeys",
        "class Send:\n    def __call__(self, message): pass\nsend = Send()",
    ],
)
def test_a_function_that_takes_one_argument_is_accepted(code: str, tmp_path: Path) -> None:
    assert callable(python_call.load(f"{module(tmp_path, code)}:send", "gateway.call", tmp_path, ("message",)))


def test_the_applications_folder_hides_no_other_module(tmp_path: Path) -> None:
    """Otherwise a file of the application could replace one of Python's modules, which retrycli imports later."""
    name = module(tmp_path, "import this_is_not_python, colorsys\ndef send(message): return colorsys.__file__")
    (tmp_path / "colorsys.py").write_text("")
    (tmp_path / "this_is_not_python.py").write_text("")
    found = python_call.load(f"{name}:send", "gateway.call", tmp_path, ("message",))
    assert Path(str(found(None))).parent != tmp_path
    assert sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize("helper", [True, False], ids=["a module that it imports", "the module itself"])
def test_two_folders_with_a_module_of_one_name_are_refused(tmp_path: Path, *, helper: bool) -> None:
    """Otherwise the code for customers would send the messages to suppliers."""
    shared = f"shared_by_two_{helper}".lower()
    for folder, name in (("customers", f"c_{shared}"), ("suppliers", f"s_{shared}")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{shared}.py").write_text("def send(message): pass")
        (tmp_path / folder / f"{name}.py").write_text(f"from {shared} import send")
    first, second = (f"c_{shared}:send", f"s_{shared}:send") if helper else (f"{shared}:send",) * 2
    python_call.load(first, "gateway.call", tmp_path / "customers", ("message",))
    with pytest.raises(
        ConfigurationError, match=rf"supplier\.call: .*customers/{shared}\.py hides the module {shared} of"
    ):
        python_call.load(second, "gateway.supplier.call", tmp_path / "suppliers", ("message",))


# -- files ---------------------------------------------------------------------------------------------------------


def test_the_files_of_a_function_are_found_without_running_them(tmp_path: Path) -> None:
    package = tmp_path / "desk_files" / "mail"
    package.mkdir(parents=True)
    for file in (package.parent / "__init__.py", package / "__init__.py", package / "out.py"):
        file.write_text("raise AssertionError")
    found = [*python_call.files_of("desk_files.mail.out:Service.send", tmp_path)]
    assert found == [package.parent / "__init__.py", package / "__init__.py", package / "out.py"]
    (package.parent / "__init__.py").unlink()
    assert [*python_call.files_of("desk_files.mail.gone:send", tmp_path)] == [package / "__init__.py"]
    assert [*python_call.files_of("desk_gone:send", None)] == []
    assert [*python_call.files_of("sys:exit", None)] == []


# -- the function of a schedule ------------------------------------------------------------------------------------


def schedule(folder: Path, code: str) -> ScheduleFunction:
    return ScheduleFunction(f"{module(folder, code)}:next_wait", "schedule.call", folder)


def test_a_function_returns_a_wait_or_none(tmp_path: Path) -> None:
    code = (
        "from datetime import timedelta\n"
        "def next_wait(attempt, outcome):\n"
        "    return timedelta(minutes=attempt) if outcome.kind == 'transient' else None"
    )
    function = schedule(tmp_path, code)
    assert function(3, DOWN) == timedelta(minutes=3)
    text = refusal(f"{module(tmp_path, 'def send(message): pass')}:send", tmp_path, "attempt", "outcome")
    assert text.endswith("has the wrong signature; let it take attempt and outcome, by position")
    assert function(3, Outcome(OutcomeKind.UNKNOWN, error="x")) is None


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("1 / 0", "raised ZeroDivisionError"),
        ("exit('hush-hush')", "raised SystemExit"),
        ("15", "returned a value of type int; it must return a timedelta or None"),
        ("timedelta(-1)", "returned a negative wait"),
        ("timedelta(days=366, microseconds=1)", "returned a wait of more than a year"),
    ],
)
def test_a_function_that_fails_says_so_once(
    returned: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    function = schedule(
        tmp_path, f"from datetime import timedelta\ndef next_wait(attempt, outcome):\n    return {returned}"
    )
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises(NoWait, match=said):
                function(1, DOWN)
    assert [record.getMessage() for record in caplog.records] == [
        f"schedule.call: {function.name} {said}; messages whose waits it decides are escalated"
    ]


def test_a_function_that_does_not_return_is_called_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A decision is made while the database is locked, so each call could delay the application."""
    code = "import threading\nevent, calls = threading.Event(), []\n"
    code += "def next_wait(attempt, outcome):\n    calls.append(attempt)\n    event.wait()"
    function = schedule(tmp_path, code)
    for number in range(3):
        with pytest.raises(TooSlow):
            function(number, DOWN)
    said = "did not return within 1 s; this pass does not call it again, and the messages wait base_minutes"
    assert [record.getMessage() for record in caplog.records] == [f"schedule.call: {function.name} {said}"]
    found = sys.modules[function.name.partition(":")[0]]
    assert found.calls == [0]
    found.event.set()
