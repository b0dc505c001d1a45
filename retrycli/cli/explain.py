"""``explain``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from retrycli.cli.arguments import MessageId
from retrycli.cli.options import ConfigFile, Json, load
from retrycli.cli.show import may_have_arrived
from retrycli.cli.status import LOOK_AT_CRON, callers_here, complete_commands, report_silent_programs
from retrycli.domain.message import EscalationReason
from retrycli.system.host import Asker
from retrycli.views import terminal

if TYPE_CHECKING:
    from datetime import datetime

    from retrycli.operations.explain import Explanation


def explain(
    ctx: typer.Context,
    message_id: MessageId,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Show what delays a message, and its next attempt."""
    from retrycli.operations.explain import explain as explained

    loaded = load(ctx, config)
    callers, none_hidden = callers_here(loaded, asker := Asker())
    found = explained(loaded.settings, message_id, callers=callers, none_hidden=none_hidden)
    report_silent_programs(asker)
    if as_json:
        fields = asdict(found)
        for name in ("is_claimed", "being_sent", "has_begun", "pass_runs", "one_goes_first", "expires_first"):
            del fields[name]
        terminal.show_json({"id": fields.pop("message_id")} | fields)
        return
    terminal.show_table(
        ("Gate", "Open", "Figure", "Time"),
        [
            # Only cron's figure suggests commands.
            (
                gate.name.replace("_", "-"),
                gate.open,
                complete_commands(loaded, gate.figure) if gate.name == "cron" else gate.figure,
                gate.time,
            )
            for gate in found.gates
        ],
    )
    terminal.show_facts({"Next attempt": _next_attempt(found)})
    terminal.say(f"Next: {_remedy(found)}")


def _next_attempt(found: Explanation) -> datetime | str:
    at = found.next_attempt_at
    if found.being_sent:
        later = f"; if that pass has died, {terminal.time_in_words(at)}" if at else ""
        return ("being sent now" if found.has_begun else "in the pass that has claimed it") + later
    if found.expires_first:
        return "none: it expires before a pass would try it"
    if at is None:
        return "none by a pass as things stand"
    if found.one_goes_first:
        return f"not before {terminal.time_in_words(at)}, and then only if it is the one that is tried first"
    if found.pass_runs and all(gate.open for gate in found.gates):
        return f"in the pass that runs now, or at {terminal.time_in_words(at)}"
    return at


REMEDIES = {
    "status": "retrycli list-failed",
    "data": "`retrycli show {id}`; fix its row in the application",
    "pause": "retrycli resume",
    "breaker": "retrycli status",
    "disk": "retrycli doctor",
    "cron": LOOK_AT_CRON,
}


def _remedy(found: Explanation) -> str:
    """Return the command for the first closed gate."""
    if any(gate.name == "escalation" and gate.figure == EscalationReason.UNKNOWN for gate in found.gates):
        return may_have_arrived(found.message_id)
    if found.is_claimed:
        return f"retrycli show {found.message_id}"
    usual = "`retrycli retry {id}` attempts it now"
    remedy = next((REMEDIES.get(gate.name, usual) for gate in found.gates if not gate.open), usual)
    return remedy.format(id=found.message_id)
