"""The error classes, and the command's exit code for each of them."""

from __future__ import annotations

import inspect

from retrycli.domain import errors

EXIT_CODES = {
    1: {"RetrycliError", "OutputFailed", "EventLoopRunning"},
    2: {"InvalidArgument"},
    4: {
        *("InvalidMessage", "NoSuchMessage", "NotActionable", "CountChanged", "Expired", "MayHaveArrived"),
        *("StaleEdit", "NotEdited"),
    },
    69: {"ClockBehind", "DatabaseUnavailable", "DatabaseBusy", "TransactionLost"},
    75: {"LockHeld"},
    78: {"ConfigurationError", "SchemaMismatch", "LockUnusable", "Untrusted"},
}


def test_each_error_has_its_exit_code() -> None:
    found: dict[int, set[str]] = {}
    for name, error in inspect.getmembers(errors, inspect.isclass):
        if issubclass(error, errors.RetrycliError):
            found.setdefault(error.exit_code, set()).add(name)
    assert found == EXIT_CODES


def test_only_an_invalid_setting_is_a_configuration_error() -> None:
    """A pass escalates an invalid message and continues; a configuration error ends it."""
    for error in (errors.SchemaMismatch, errors.LockUnusable, errors.Untrusted):
        assert issubclass(error, errors.ConfigurationError)
    assert not issubclass(errors.InvalidMessage, errors.ConfigurationError)
