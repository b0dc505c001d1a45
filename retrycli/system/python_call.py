"""Load functions of the application by their names, such as ``desk.messages:retry_failed_message``."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from datetime import timedelta
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from pkgutil import iter_modules
from shlex import quote
from threading import Thread
from types import ModuleType

from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import Outcome
from retrycli.domain.retry_policy import NoWait, TooSlow
from retrycli.system.trust import require_trust

logger = logging.getLogger("retrycli")

SCHEDULE_SECONDS = 1.0  # time limit for the function of a schedule, which should only compute
LONGEST_WAIT = timedelta(days=366)  # longer than any wait that the settings allow


def load(name: str, key: str, folder: Path | None, takes: tuple[str, ...]) -> Callable[..., object]:
    """Import a function of the application, and check that it can be called.

    Args:
        name: the function, as ``MODULE:FUNCTION``.
        key: the setting that names it, for errors.
        folder: a folder with modules, besides those that Python searches anyway.
        takes: the names of the arguments, all positional.

    Raises:
        ConfigurationError: the function can't be imported or called, or other users may change a file of the folder.
            The error has no text of the application's exceptions, because they may quote secrets.
    """
    module_name, _, path = name.partition(":")
    if folder is not None:
        require_trust(folder, "gateway.modules_dir", may_be_missing=True)  # `_Guard` checks each module again
        if str(folder) not in sys.path:
            # At the end, so that a module of the application does not hide one that retrycli needs.
            sys.path.append(str(folder))
        if not any(isinstance(finder, _Guard) and finder.folder == folder for finder in sys.meta_path):
            sys.meta_path.insert(0, _Guard(folder))
    found: object = _imported(module_name, key, folder)
    if folder is not None:
        _refuse_hidden(folder, key)
    try:
        for part in path.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise ConfigurationError(f"{key}: {module_name} has no {path}; write MODULE:FUNCTION") from None
    except Exception as error:
        raise ConfigurationError(f"{key}: looking up {name} raised {type(error).__name__}; fix it") from error
    if (objection := _objection(found, takes)) is not None:
        raise ConfigurationError(f"{key}: {name} {objection}")
    assert callable(found)  # noqa: S101  for the type checker
    return found


class _Untrusted(ConfigurationError):
    """Other users may change a module of the application."""


class _Guard:
    """Rejects each module of a folder that other users may change, when it is about to be imported. It leaves the
    import to the interpreter's own finders, and ignores the modules of other folders on the interpreter's path.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._packages = {str(folder)}

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        """See `importlib.abc.MetaPathFinder.find_spec`."""
        spec = PathFinder.find_spec(name, path, target)
        own = [entry for entry in (sys.path if path is None else path) if entry in self._packages]
        guarded = PathFinder.find_spec(name, own, target)
        if spec is None or guarded is None or spec.origin != guarded.origin:
            return
        self._packages.update(guarded.submodule_search_locations or ())
        for file in (guarded.origin, guarded.cached):
            if guarded.has_location and file is not None:
                try:
                    require_trust(Path(file), may_be_missing=file == guarded.cached)
                except FileNotFoundError:
                    raise _Untrusted(f"{file} was moved while it was imported; start again") from None
                except ConfigurationError as error:
                    raise _Untrusted(str(error)) from None


class ScheduleFunction:
    """The function of a `python` schedule: see `retrycli.domain.retry_policy.WaitFunction`.

    It is called in a thread, because a decision is made while the database is locked. If it does not return in time, it
    is not called again. Its first failure is logged.

    Args:
        name: the function, as ``MODULE:FUNCTION``.
        key: the setting that names it.
        folder: see `load`.
    """

    def __init__(self, name: str, key: str, folder: Path | None) -> None:
        self.name = name
        self._key = key
        self._folder = folder
        self._failed = False
        self._hangs = False

    def __call__(self, attempt: int, outcome: Outcome) -> timedelta | None:
        """Return the wait after a failed attempt; None to escalate the message.

        Raises:
            TooSlow: the function did not return in time.
            NoWait: the function raised an exception, or returned something else.
            ConfigurationError: see the function `load`.
        """
        function = load(self.name, self._key, self._folder, ("attempt", "outcome"))
        if self._hangs:
            raise TooSlow
        try:
            returned = _call_in_thread(function, attempt, outcome)
        except TimeoutError:
            self._hangs = True
            fault = f"did not return within {SCHEDULE_SECONDS:g} s; this pass does not call it again"
            logger.warning("%s: %s %s, and the messages wait base_minutes", self._key, self.name, fault)
            raise TooSlow from None
        if returned is None or (isinstance(returned, timedelta) and timedelta(0) <= returned <= LONGEST_WAIT):
            return returned
        fault = _fault(returned)
        if not self._failed:
            self._failed = True
            logger.warning("%s: %s %s; messages whose waits it decides are escalated", self._key, self.name, fault)
        raise NoWait(f"{self.name} {fault}")


def _call_in_thread(function: Callable[..., object], attempt: int, outcome: Outcome) -> object:
    """Return what a function returns, or the exception that it raises.

    Raises:
        TimeoutError: the function did not return in time. Its thread does not keep the process from ending.
    """
    done: Future[object] = Future()

    def run() -> None:
        try:
            done.set_result(function(attempt, outcome))
        except BaseException as error:  # noqa: BLE001  whatever the function raises escalates one message
            done.set_result(error)

    Thread(target=run, name="retrycli schedule", daemon=True).start()
    return done.result(SCHEDULE_SECONDS)


def _fault(returned: object) -> str:
    if isinstance(returned, BaseException):
        return f"raised {type(returned).__name__}"
    if isinstance(returned, timedelta):
        return "returned a negative wait" if returned < timedelta(0) else "returned a wait of more than a year"
    return f"returned a value of type {type(returned).__name__}; it must return a timedelta or None"


def files_of(name: str, folder: Path | None) -> Iterator[Path]:
    """Yield the files of the module of a function (``MODULE:FUNCTION``) and of the packages above it, and run none of
    their code.
    """
    parts = name.partition(":")[0].split(".")
    path = [*sys.path, *([] if folder is None else [str(folder)])]
    for number in range(1, len(parts) + 1):
        finders = (getattr(finder, "find_spec", None) for finder in sys.meta_path)
        specs = (find(".".join(parts[:number]), path) for find in finders if find is not None)
        spec = next(filter(None, specs), None)
        if spec is None:
            return
        if spec.has_location and spec.origin is not None:
            yield Path(spec.origin)
        path = list(spec.submodule_search_locations or ())


def _imported(module_name: str, key: str, folder: Path | None) -> object:
    try:
        return import_module(module_name)
    except _Untrusted as error:
        raise ConfigurationError(f"{key}: {error}") from None
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            python = f"the packages of {sys.executable}"
            places = python if folder is None else f"{folder} or {python}"
            raise ConfigurationError(
                f"{key}: no module {error.name} in {places}; set gateway.modules_dir to the folder that contains it"
            ) from None
        missing = f" (no module {error.name})" if isinstance(error, ModuleNotFoundError) else ""
        where = "" if folder is None else f"cd {quote(str(folder))} && "
        raise ConfigurationError(
            f"{key}: importing {module_name} raised {type(error).__name__}{missing}; to see why, run "
            f"`{where}{quote(sys.executable)} -c 'import {module_name}'`"
        ) from error


def _refuse_hidden(folder: Path, key: str) -> None:
    """Check that no module of a folder is hidden by one that was loaded from the folder of another function.

    Raises:
        ConfigurationError: the code of the other function would run instead.
    """
    others = [each.folder for each in sys.meta_path if isinstance(each, _Guard) and each.folder != folder]
    for own in iter_modules([str(folder)]) if others else ():
        loaded = Path(getattr(sys.modules.get(own.name), "__file__", None) or folder)
        if not loaded.is_relative_to(folder) and any(map(loaded.is_relative_to, others)):
            raise ConfigurationError(
                f"{key}: {loaded} hides the module {own.name} of {folder}, because Python loads only one module of a "
                "name; rename one of them"
            )


def _objection(found: object, takes: tuple[str, ...]) -> str | None:
    """Return why an object can't be called with these arguments; None if it can."""
    if not callable(found) or inspect.isclass(found):
        return f"is a {'class' if inspect.isclass(found) else f'value of type {type(found).__name__}'}; name a function"
    if inspect.isgeneratorfunction(found) or inspect.isasyncgenfunction(found):
        return "is a generator, which does nothing when it is called; name a function without yield"
    try:
        inspect.signature(found).bind(*takes)
    except TypeError:
        return f"has the wrong signature; let it take {' and '.join(takes)}, by position"
    except ValueError:  # a function that is not written in Python may have no signature
        return None
    return None
