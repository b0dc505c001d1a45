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

    page = retrycli.list_failed(settings)     # the first 50 failed messages
    page = retrycli.list_failed(settings, after=page.next)  # the next 50, if `page.next` is not None
    retrycli.show(settings, 17)               # the message's text and history
    retrycli.explain(settings, 17)            # why it waits, and when it is attempted next
    retrycli.edit(settings, 17, recipient="max@example.org")
    retrycli.pause(settings, length=timedelta(hours=2), reason="API migration")  # see also `resume`, `passes`

A function that sends a message for ``gateway.kind = "python"`` gets an `OutgoingMessage`. It returns None, or raises
`Permanent`, `Transient`, `RetryAfter`, `Unauthorized` or `Unknown`. `from_http_error` turns an error of httpx or of
requests into such an exception.

Names are imported on first use, so that ``import retrycli`` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrycli.config.loader import load_settings
    from retrycli.config.settings import Settings
    from retrycli.domain.errors import (
        InvalidArgument,
        MayHaveArrived,
        NoSuchMessage,
        NotActionable,
        RetrycliError,
        StaleEdit,
    )
    from retrycli.domain.listing import Filter, ListedMessage, ListedState, MessageDetails
    from retrycli.domain.message import EscalationReason, MessageType, State
    from retrycli.domain.outcome import LookUp, Outcome, OutcomeKind, Presence
    from retrycli.domain.passes import Hold, HoldKind, HoldTarget, PassRecord, PassSummary, Pause
    from retrycli.domain.sender import OutgoingMessage, Permanent, RetryAfter, Transient, Unauthorized, Unknown
    from retrycli.gateway.python.http_errors import from_http_error
    from retrycli.operations.bulk import Canary
    from retrycli.operations.edit_message import Edit, edit
    from retrycli.operations.explain import Explanation, Gate, explain
    from retrycli.operations.listing import Page, show
    from retrycli.operations.listing import page as list_failed
    from retrycli.operations.message_actions import Match, acknowledge, find, mark_sent, reject, requeue
    from retrycli.operations.pause import pause, resume
    from retrycli.operations.retry import ActionResult, look_up, retry
    from retrycli.operations.run_pass import run_once
    from retrycli.operations.schedule.in_process import Scheduler
    from retrycli.operations.status import PassList, Status, passes, status

__all__ = [
    "ActionResult",
    "Canary",
    "Edit",
    "EscalationReason",
    "Explanation",
    "Filter",
    "Gate",
    "Hold",
    "HoldKind",
    "HoldTarget",
    "InvalidArgument",
    "ListedMessage",
    "ListedState",
    "LookUp",
    "Match",
    "MayHaveArrived",
    "MessageDetails",
    "MessageType",
    "NoSuchMessage",
    "NotActionable",
    "Outcome",
    "OutcomeKind",
    "OutgoingMessage",
    "Page",
    "PassList",
    "PassRecord",
    "PassSummary",
    "Pause",
    "Permanent",
    "Presence",
    "RetryAfter",
    "RetrycliError",
    "Scheduler",
    "Settings",
    "StaleEdit",
    "State",
    "Status",
    "Transient",
    "Unauthorized",
    "Unknown",
    "acknowledge",
    "edit",
    "explain",
    "find",
    "from_http_error",
    "list_failed",
    "load_settings",
    "look_up",
    "mark_sent",
    "passes",
    "pause",
    "reject",
    "requeue",
    "resume",
    "retry",
    "run_once",
    "show",
    "status",
]

_NAMES = {  # by the module that defines them
    "config.loader": ("load_settings",),
    "config.settings": ("Settings",),
    "domain.errors": (
        "InvalidArgument",
        "MayHaveArrived",
        "NoSuchMessage",
        "NotActionable",
        "RetrycliError",
        "StaleEdit",
    ),
    "domain.listing": ("Filter", "ListedMessage", "ListedState", "MessageDetails"),
    "domain.message": ("EscalationReason", "MessageType", "State"),
    "domain.outcome": ("LookUp", "Outcome", "OutcomeKind", "Presence"),
    "domain.passes": ("Hold", "HoldKind", "HoldTarget", "PassRecord", "PassSummary", "Pause"),
    "domain.sender": ("OutgoingMessage", "Permanent", "RetryAfter", "Transient", "Unauthorized", "Unknown"),
    "gateway.python.http_errors": ("from_http_error",),
    "operations.edit_message": ("Edit", "edit"),
    "operations.explain": ("Explanation", "Gate", "explain"),
    "operations.listing": ("Page", "list_failed", "show"),
    "operations.bulk": ("Canary",),
    "operations.message_actions": ("Match", "acknowledge", "find", "mark_sent", "reject", "requeue"),
    "operations.pause": ("pause", "resume"),
    "operations.retry": ("ActionResult", "look_up", "retry"),
    "operations.run_pass": ("run_once",),
    "operations.schedule.in_process": ("Scheduler",),
    "operations.status": ("PassList", "Status", "passes", "status"),
}
_ALIASES = {"list_failed": "page"}  # names that differ from those in their modules


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("retrycli")
    module = next((module for module, names in _NAMES.items() if name in names), None)
    if module is None:
        raise AttributeError(f"module 'retrycli' has no attribute {name!r}")
    return getattr(import_module(f"retrycli.{module}"), _ALIASES.get(name, name))
