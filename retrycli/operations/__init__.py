"""The operator's use cases, one module per use case. Commands and embedding applications call them."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrycli.operations import (
        bodies,
        bulk,
        demo,
        doctor,
        dry_run,
        edit_message,
        expiry,
        explain,
        listing,
        login,
        maintenance,
        message_actions,
        metrics,
        notifications,
        pause,
        presets,
        report,
        retry,
        run_pass,
        sandbox,
        setup,
        status,
        table,
        tokens,
        trial,
        wiring,
        words,
    )


def __getattr__(name: str) -> object:
    """Load a use case when a command first needs it, so that the other commands and the help start fast."""
    if find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    __import__(f"{__name__}.{name}")  # import_module would hide the module from -X importtime, which tests read
    return globals()[name]
