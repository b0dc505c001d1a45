"""Deliver failed ticket messages from Python code.

    import retrycli

    settings = retrycli.load_settings()
    scheduler = retrycli.Scheduler(settings)  # makes the passes in a thread, instead of cron
    scheduler.start()                         # `scheduler.stop()` ends it in good order

    summary = retrycli.run_once(settings)     # one pass; acquires the same lock as the command
    retrycli.status(settings)                 # scheduler health and queue counts
    retrycli.retry(settings, 17)              # attempt one message now
    retrycli.look_up(settings, 17)            # ask whether the message has arrived; send nothing
    retrycli.mark_sent(settings, [17])        # record that the message has arrived

    found = retrycli.find(settings, retrycli.Filter(error="503"))
    retrycli.requeue(settings, found.ids)     # return these messages to the queue; see also `reject`

Names are imported on first use, so that ``import retrycli`` is fast.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrycli.config.loader import load_settings
    from retrycli.config.settings import Settings
    from retrycli.domain.errors import RetrycliError
    from retrycli.domain.listing import Filter
    from retrycli.domain.message import EscalationReason, MessageType, State
    from retrycli.domain.outcome import LookUp, Outcome, Presence
    from retrycli.domain.passes import PassSummary
    from retrycli.operations.message_actions import Canary, Match, acknowledge, find, mark_sent, reject, requeue
    from retrycli.operations.retry import ActionResult, look_up, retry
    from retrycli.operations.run_pass import run_once
    from retrycli.operations.schedule.in_process import Scheduler
    from retrycli.operations.status import Status, status

__all__ = [
    "ActionResult",
    "Canary",
    "EscalationReason",
    "Filter",
    "LookUp",
    "Match",
    "MessageType",
    "Outcome",
    "PassSummary",
    "Presence",
    "RetrycliError",
    "Scheduler",
    "Settings",
    "State",
    "Status",
    "acknowledge",
    "find",
    "load_settings",
    "look_up",
    "mark_sent",
    "reject",
    "requeue",
    "retry",
    "run_once",
    "status",
]

_HOMES = {
    "ActionResult": "operations.retry",
    "Canary": "operations.message_actions",
    "EscalationReason": "domain.message",
    "Filter": "domain.listing",
    "LookUp": "domain.outcome",
    "Match": "operations.message_actions",
    "MessageType": "domain.message",
    "Outcome": "domain.outcome",
    "PassSummary": "domain.passes",
    "Presence": "domain.outcome",
    "RetrycliError": "domain.errors",
    "Scheduler": "operations.schedule.in_process",
    "Settings": "config.settings",
    "State": "domain.message",
    "Status": "operations.status",
    "acknowledge": "operations.message_actions",
    "find": "operations.message_actions",
    "load_settings": "config.loader",
    "look_up": "operations.retry",
    "mark_sent": "operations.message_actions",
    "reject": "operations.message_actions",
    "requeue": "operations.message_actions",
    "retry": "operations.retry",
    "run_once": "operations.run_pass",
    "status": "operations.status",
}

_RENAMED = {"Done": "ActionResult", "Found": "Match"}  # deprecated names; the release after 0.1.0 removes them


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("retrycli")
    if name in _RENAMED:
        warnings.warn(f"retrycli.{name} is deprecated; use retrycli.{_RENAMED[name]}", DeprecationWarning, stacklevel=2)
        name = _RENAMED[name]
    if name not in _HOMES:
        raise AttributeError(f"module 'retrycli' has no attribute {name!r}")
    return getattr(import_module(f"retrycli.{_HOMES[name]}"), name)
