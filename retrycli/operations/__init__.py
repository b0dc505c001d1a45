"""The operator's use cases, one module per use case. Commands and embedding applications call them."""

import sys
from collections.abc import Callable
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
        schedule,
        setup,
        status,
        table,
        tokens,
        trial,
        wiring,
        words,
    )


def on_demand(package: str) -> Callable[[str], object]:
    """Return the ``__getattr__`` of a package that loads modules on first use, so that other commands start fast."""

    def load(name: str) -> object:
        if find_spec(f"{package}.{name}") is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        __import__(f"{package}.{name}")  # import_module would hide the module from -X importtime, which tests read
        return vars(sys.modules[package])[name]

    return load


__getattr__ = on_demand(__name__)
