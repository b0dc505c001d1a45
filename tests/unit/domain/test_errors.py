"""The error classes: their common base class, and the command's exit code for each of them."""

from __future__ import annotations

import inspect

import pytest

from retrycli.domain import errors
from retrycli.domain.errors import (
    ClockBehind,
    ConfigurationError,
    CountChanged,
    DatabaseBusy,
    DatabaseUnavailable,
    EventLoopRunning,
    Expired,
    InvalidArgument,
    InvalidMessage,
    LockHeld,
    LockUnusable,
    MayHaveArrived,
    NoSuchMessage,
    NotActionable,
    NotEdited,
    OutputFailed,
    RetrycliError,
    SchemaMismatch,
    StaleEdit,
    TransactionLost,
    Untrusted,
)

EXIT_CODES = {
    RetrycliError: 1,
    InvalidArgument: 2,
    OutputFailed: 1,
    EventLoopRunning: 1,
    InvalidMessage: 4,
    NoSuchMessage: 4,
    NotActionable: 4,
    CountChanged: 4,
    Expired: 4,
    MayHaveArrived: 4,
    StaleEdit: 4,
    NotEdited: 4,
    ClockBehind: 69,
    DatabaseUnavailable: 69,
    DatabaseBusy: 69,
    TransactionLost: 69,
    LockHeld: 75,
    ConfigurationError: 78,
    SchemaMismatch: 78,
    LockUnusable: 78,
    Untrusted: 78,
}


@pytest.mark.parametrize(("error", "code"), EXIT_CODES.items())
def test_each_error_has_its_exit_code(error: type[RetrycliError], code: int) -> None:
    assert error.exit_code == code


def test_covers_every_error() -> None:
    defined = {error for _, error in inspect.getmembers(errors, inspect.isclass) if issubclass(error, Exception)}
    assert defined == set(EXIT_CODES)


@pytest.mark.parametrize("error", [SchemaMismatch, LockUnusable, Untrusted])
def test_an_invalid_setting_is_a_configuration_error(error: type[RetrycliError]) -> None:
    assert issubclass(error, ConfigurationError)


def test_an_invalid_message_is_not_a_configuration_error() -> None:
    """A pass escalates an invalid message and continues; a configuration error ends it."""
    assert not issubclass(InvalidMessage, ConfigurationError)
