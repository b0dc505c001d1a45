"""``status``, ``list-failed``, ``show``, ``explain``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from retrycli.cli.edit import show_edits
from retrycli.cli.shared import (
    MAX_NUMBER,
    ConfigFile,
    ForReason,
    Header,
    Json,
    MessageId,
    OfCause,
    OfState,
    OfTicket,
    OfType,
    OlderThan,
    WithError,
    filter_of,
    load,
    load_settings,
)
from retrycli.domain.message import EscalationReason, MessageType, State
from retrycli.domain.message import MessageStatus as RowStatus
from retrycli.domain.operator_action import ActionKind
from retrycli.domain.pass_summary import PassResult

if TYPE_CHECKING:
    from datetime import datetime

    from retrycli.config.loader import Loaded
    from retrycli.config.settings import Settings
    from retrycli.domain.listing import AttemptRecord, ListedMessage, MessageDetails
    from retrycli.operations.explain import Explanation
    from retrycli.operations.gates import Gate
    from retrycli.operations.status import Status
    from retrycli.system.host import Asker, Caller
    from retrycli.views.terminal import Cell, Row

ON_SCREEN = 50
"""How many rows a terminal is shown unless ``--limit`` says otherwise."""
UNHEALTHY = 3
LOOK_AT_CRON = "`retrycli doctor` and `systemctl status cron`"
UNSEEN = "no cron line or timer found here; the next run is told by the passes that came"
"""Another user's crontab may be hidden from who looks."""
OF_THE_ROW = ("message_id", "ticket")
"""What the queue has of a message that its row says as well."""
TIMES = ("created_at", "updated_at", "sent_at")


class Sort(StrEnum):
    """The orders of a list."""

    NEXT = "next"
    ID = "id"
    TRIES = "tries"
    AGE = "age"


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("status")(status)
    app.command("list-failed")(list_failed)
    app.command("show")(show)
    app.command("explain")(explain)


def status(
    ctx: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 3 unless the state is ok and something calls the passes.")
    ] = False,
    max_escalated: Annotated[
        int | None,
        typer.Option(
            min=0, max=MAX_NUMBER, help="With --check: and at most N are escalated.", metavar="N", show_default=False
        ),
    ] = None,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Show whether passes are made, and what waits."""
    from retrycli.operations import status as operation
    from retrycli.system.host import Asker
    from retrycli.views import formatting, terminal

    if max_escalated is not None and not check:
        raise typer.BadParameter("it is a limit for --check; give --check too", param_hint="--max-escalated")
    loaded = load(ctx, config)
    callers = _callers(loaded, asker := Asker())
    found = operation.status(loaded.settings, callers=callers, none_hidden=_none_hidden(callers, asker))
    if as_json:
        terminal.show_json(_status_fields(found))
    else:
        _show_status(loaded, found)
    _name_the_silent(asker)
    if check and found.uncalled is not None:
        terminal.complain(f"retrycli: {_suggesting(loaded, '; '.join(found.uncalled))}")
    escalated = found.messages["escalated"]
    too_many = max_escalated is not None and escalated > max_escalated
    if too_many:
        words = f"{formatting.count(escalated, 'message')} {'is' if escalated == 1 else 'are'} escalated"
        terminal.complain(f"retrycli: {words}, more than {max_escalated}; see `retrycli escalations`")
    is_healthy = found.state == "ok" and found.uncalled is None and not too_many
    raise typer.Exit(UNHEALTHY if check and not is_healthy else 0)


def _callers(loaded: Loaded, asker: Asker) -> list[Caller] | None:
    """Find what calls the passes here; None if the settings come from no file, which no schedule could name."""
    from retrycli.operations.schedule.callers import callers_of
    from retrycli.system.host import Host

    return None if loaded.file is None else callers_of(loaded, Host(run=asker))


def _none_hidden(callers: list[Caller] | None, asker: Asker) -> bool:
    """Tell if no crontab here calls a pass, so that one that came by cron was called by a line that is gone."""
    from retrycli.operations.schedule.callers import none_hidden
    from retrycli.system.host import Host

    return callers == [] and none_hidden(Host(run=asker))


def _suggesting(loaded: Loaded, text: str) -> str:
    """Complete the commands in a text; to install the schedule may be root's business."""
    from retrycli.domain import suggested
    from retrycli.operations.schedule.callers import to_install
    from retrycli.system.host import Host

    install = to_install(loaded, Host())
    return suggested.quoted(text.replace("`retrycli cron install`", install))


def _name_the_silent(asker: Asker) -> None:
    """Say which programs of this machine gave no answer about the schedule."""
    from retrycli.system.host import ANSWER_SECONDS
    from retrycli.views import terminal

    for each in sorted(asker.silent):
        words = f"`{each}` gave no answer within {ANSWER_SECONDS} s; a schedule that only it knows is not counted"
        terminal.complain(f"retrycli: {words}")


def _status_fields(found: Status) -> dict[str, object]:
    return {
        "state": found.state,
        "running": found.running,
        "retry_interval_minutes": found.retry_interval_minutes,
        "max_retries": found.max_retries,
        "next_run": found.next_run,
        "last_pass": asdict(found.last_pass) if found.last_pass else None,
        "hosts": [asdict(each) for each in found.hosts],
        "messages": found.messages,
        "refusals": [asdict(each) for each in found.refusals],
        "disk": found.disk,
        "breaker": [{k: v for k, v in asdict(each).items() if k != "tickets"} for each in found.breakers],
        "paused": asdict(found.pause) if found.pause else None,
        "lock": asdict(found.lock) if found.lock else None,
    }


def _show_status(loaded: Loaded, found: Status) -> None:
    from retrycli.views import formatting, terminal

    terminal.show_facts(
        {
            "State": f"{found.state}, but nothing calls the next pass"
            if found.state == "ok" and found.uncalled is not None
            else found.state,
            "Passes": _passes_in_words(found),
            **_cause_in_words(found),
            **_hosts_in_words(found),
            "Next run": _next_run(loaded, found),
            **({"Schedule": UNSEEN} if found.unseen else {}),
            "Waiting": found.messages["waiting"],
            "Due": found.messages["due"],
            "Sending": found.messages["sending"],
            **_claimed_in_words(found),
            "Escalated": found.messages["escalated"],
            **_expired_in_words(found),
            **{
                f"Breaker {each.state}": f"{each.destination}, until {terminal.time_in_words(each.probe_at)}"
                + (f", {formatting.count(each.failures, 'failure')} in a row" if each.failures else "")
                for each in found.breakers
                if each.probe_at is not None
            },
            **_refusals_in_words(found),
            **({"Disk": found.disk} if found.disk else {}),
            "Pause": _pause_in_words(found),
            "Lock": found.lock.in_words(found.now) if found.lock else "free",
        }
    )
    steps = {
        "never_run": "`retrycli run-once`, and then " + _suggesting(loaded, "`retrycli cron install`"),
        "late": LOOK_AT_CRON,
        "paused": "retrycli resume",
        "down": "retrycli passes" if found.breakers else "retrycli doctor",
    }
    usual = "retrycli escalations" if found.messages["escalated"] else "retrycli list-failed"
    terminal.say(f"Next: {steps.get(found.state, 'retrycli doctor' if found.uncalled else usual)}")


def _next_run(loaded: Loaded, found: Status) -> datetime | str | None:
    """Return when the next pass begins, or why none does. Before the first pass the last line has the remedy."""
    if found.uncalled is None:
        return found.next_run
    why, remedy = found.uncalled
    return _suggesting(loaded, f"none: {why}" if found.last_pass is None else f"none: {why}; {remedy}")


def _claimed_in_words(found: Status) -> dict[str, str]:
    """Return whose claims the messages in state ``sending`` are under: more are claimed than requests are out."""
    if not found.messages["sending"] or (found.lock is None and not found.unrecorded):
        return {}
    return {"Claimed by": "the pass that runs" if found.lock else "a pass that has ended"}


def _expired_in_words(found: Status) -> dict[str, str]:
    """Return how many waiting messages are too old to be sent, and what becomes of them."""
    expired = found.messages["expired"]
    if not expired:
        return {}
    if found.pause is not None or found.breakers:
        then = "a pass escalates them when deliveries go on"
    elif found.messages["expired_due"] < expired:
        then = "a pass escalates each when it is due"
    else:
        then = f"the next pass escalates {'it' if expired == 1 else 'them'}"
    return {"Expired": f"{expired:,} of those waiting; {then}"}


def _passes_in_words(found: Status) -> str:
    from retrycli.domain import suggested
    from retrycli.views import formatting

    last = found.last_pass
    if last is None:
        return "there was none yet"
    words = f"the last one began {formatting.ago(last.started_at, found.now)}: {last.result_in_words(found.unrecorded)}"
    if last.result == "stopped" and last.reason:
        words += f" ({last.reason.replace('_', ' ')})"
    if last.result is not None:  # the counts are written when it ends
        words += f", {last.sent:,} sent, {last.rescheduled:,} rescheduled, {last.escalated:,} escalated"
    if found.missing is not None:
        words += f"; none has begun since: {suggested.quoted(found.missing)}"
    return words


def _cause_in_words(found: Status) -> dict[str, str]:
    """Return why the last pass ended early, if it has more to say than its result."""
    from retrycli.domain import suggested

    last = found.last_pass
    is_over = last is not None and last.result == PassResult.SKIPPED and found.lock is None
    if last is None or last.detail is None or last.result == PassResult.PAUSED or is_over:
        return {}
    return {"Cause": suggested.quoted(last.detail)}


def _refusals_in_words(found: Status) -> dict[str, str]:
    """Return what refused us before the last pass, which says itself what refused it."""
    from retrycli.views import terminal

    return {
        f"API {each.destination}": f"refused us at {terminal.time_in_words(each.at)}: {each.detail}; "
        + ("not tried since, nothing was due" if each.was_idle else "nothing was delivered there since")
        for each in found.refusals
        if found.last_pass is None or found.last_pass.started_at != each.at
    }


def _hosts_in_words(found: Status) -> dict[str, str]:
    """Each host's newest pass, where there are several."""
    from retrycli.views import formatting

    return {
        f"Host {each.host}": f"its last one began {formatting.ago(each.started_at, found.now)}"
        + ("; look at its cron" if each.late else "")
        for each in found.hosts
        if len(found.hosts) > 1
    }


def _pause_in_words(found: Status) -> str:
    from retrycli.views import terminal

    if found.pause is None:
        return "none"
    until = f" until {terminal.time_in_words(found.pause.until)}" if found.pause.until else ""
    return f"by {found.pause.by}{until}" + (f": {found.pause.reason}" if found.pause.reason else "")


def list_failed(
    ctx: typer.Context,
    state: OfState = None,
    message_type: OfType = None,
    ticket: OfTicket = None,
    error: WithError = None,
    reason: ForReason = None,
    older_than: OlderThan = None,
    fingerprint: OfCause = None,
    sort: Annotated[Sort, typer.Option(help="In this order.")] = Sort.NEXT,
    limit: Annotated[
        int | None, typer.Option(min=1, max=MAX_NUMBER, help="So many at most.", show_default="50 on a terminal")
    ] = None,
    header: Header = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """List failed messages: which wait, until when, and why."""
    from retrycli.operations import listing
    from retrycli.views import formatting, terminal

    settings = load_settings(ctx, config)
    wanted = filter_of(
        state=state,
        message_type=message_type,
        ticket=ticket,
        error=error,
        reason=reason,
        older_than=older_than,
        fingerprint=fingerprint,
    )
    shown = limit or (ON_SCREEN if terminal.on_terminal() and not as_json else None)
    with listing.list_messages(settings, wanted, sort=sort.value, limit=shown) as found:
        if as_json:
            most = _tries_allowed(settings)
            policies = settings.policies
            terminal.show_json(
                {
                    "messages": (
                        _list_fields(each, most) | {"expires_at": each.expires_at(policies)} for each in found.messages
                    )
                }
            )
            return
        if not terminal.on_terminal():
            show_messages(settings, found.messages, named=header)
            return
        messages = list(found.messages)
        total = found.total() if found.number == shown else found.number
    show_messages(settings, messages)
    terminal.say(
        f"{formatting.count(total, 'message')}" + (f", {len(messages)} shown" if len(messages) < total else "")
    )
    one = messages[0].id if messages else None
    terminal.say(f"Next: `retrycli show {one}` or `retrycli retry {one}`" if messages else "Next: retrycli status")


def _list_fields(message: ListedMessage, most: dict[MessageType, int]) -> dict[str, object]:
    fields = ("id", "ticket_id", "message_type", "state", "retry_count", "next_attempt_at", "last_error")
    return {name: getattr(message, name) for name in fields} | {
        "max_retries": _most(most, message.message_type),
        "created_at": message.created_at,
    }


def show_messages(settings: Settings, messages: Iterable[ListedMessage], *, named: bool = False) -> None:
    """Show messages as a list does, with a column for when they expire if they may.

    A program gets the time; a person is told of those that expire soon, and of those that have.
    """
    from retrycli.operations.wiring import utc_now
    from retrycli.views import terminal

    most = _tries_allowed(settings)
    expire = any(each.expires_after for each in settings.policies.values())
    for_person, now = terminal.on_terminal(), utc_now()
    if for_person:
        messages = list(messages)
        expire = any(_expiry(each, settings, now) for each in messages)

    def expiry(message: ListedMessage) -> Cell:
        return _expiry(message, settings, now) if for_person else message.expires_at(settings.policies)

    columns = ("ID", "Ticket", "Type", "State", "Tries", "Next attempt", "Last error")
    terminal.show_table(
        (*columns, "Expires") if expire else columns,
        (
            (
                each.id,
                str(each.ticket_id),
                each.message_type,
                each.state,
                _tries(each.retry_count, _most(most, each.message_type)),
                each.next_attempt_at,
                each.last_error,
                *((expiry(each),) if expire else ()),
            )
            for each in messages
        ),
        texts=2 if expire else 1,
        named=named,
    )


def _expiry(message: ListedMessage, settings: Settings, now: datetime) -> str:
    """Say when a waiting message expires, if that is worth a word; else nothing."""
    from retrycli.operations.expiry import EXPIRED, is_shown
    from retrycli.views import formatting

    end, due = message.expires_at(settings.policies), message.next_attempt_at
    if message.state is not State.WAITING or end is None or not is_shown(end, due, now):
        return ""
    if end < now:
        return EXPIRED
    early = ", before its next attempt" if due is not None and end < due else ""
    return f"expires {formatting.ahead(end, now)}{early}"


def _tries_allowed(settings: Settings) -> dict[MessageType, int]:
    return {each: policy.max_retries for each, policy in settings.policies.items()}


def _tries(made: int | None, most: int | None) -> str:
    """Tries made and allowed; a bad row has no number in the one place, or no known type to tell the other."""
    return f"{'?' if made is None else made}/{'?' if most is None else most}"


def _most(most: dict[MessageType, int], message_type: str) -> int | None:
    return next((tries for each, tries in most.items() if each == message_type), None)


def show(
    ctx: typer.Context,
    message_id: MessageId,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Show one message with its text, and every attempt at it."""
    from retrycli.operations import listing
    from retrycli.views import terminal

    settings = load_settings(ctx, config)
    found = listing.show(settings, message_id)
    if as_json:
        terminal.show_json(
            {
                "message": {name: _rfc_3339(name, value) for name, value in found.row.items()},
                "queue": found.queue,
                "attempts": [asdict(each) for each in found.attempts],
                "acts": [asdict(each) for each in found.acts],
            }
        )
        return
    facts = {name: None if value is None else str(value) for name, value in found.row.items() if name != "body"}
    queue = {f"queue.{name}": value for name, value in (found.queue or {}).items() if name not in OF_THE_ROW}
    if found.queue is not None:
        queue["queue.delivered_to"] = ", ".join(found.queue["delivered_to"]) or None
    terminal.show_facts(facts | {name: value for name, value in queue.items() if value is not None})
    terminal.say("")
    terminal.show_text("" if found.row["body"] is None else str(found.row["body"]))
    terminal.say("")
    show_edits(found.acts)
    _show_history(found)
    if not found.attempts:
        terminal.say("No attempt was made at it yet.")
    terminal.say(f"Next: {_next_step(settings, found, message_id)}")


def _next_step(settings: Settings, found: MessageDetails, message_id: int) -> str:
    """What to do about a message; one that can't be sent as it is has to be mended before it is tried."""
    if found.row["status"] == RowStatus.REJECTED and found.acts and found.acts[-1].act == ActionKind.REJECTED:
        if any(each.expires_after for each in settings.policies.values()):
            return f"`retrycli requeue {message_id}` takes it back, unless it has expired"
        return f"`retrycli requeue {message_id}` takes it back"
    if found.row["status"] != RowStatus.FAILED:
        return "retrycli list-failed"
    retry = f"retrycli retry {message_id}"
    match None if found.queue is None else found.queue["escalation_reason"]:
        case EscalationReason.INVALID if _is_editable(found.row["last_error"]):
            return f"`retrycli edit {message_id}`, or mend its row; then `{retry}`"
        case EscalationReason.INVALID:
            return f"mend its row in the application; then `{retry}`"
        case EscalationReason.UNKNOWN:
            return may_have_arrived(message_id)
        case EscalationReason.CHANGED:
            return f"`retrycli mark-sent {message_id}` if it was delivered; `{retry}` sends it"
        case _:
            return retry


def _is_editable(problem: object) -> bool:
    """Tell if `retrycli edit` changes the column that makes a message invalid."""
    return str(problem).removeprefix("Can't be sent: ").startswith(("subject", "body", "recipient_email"))


def may_have_arrived(message_id: int) -> str:
    """Return the commands for an escalated message that may have arrived."""
    return (
        f"`retrycli look-up {message_id}`, or look into its ticket; "
        f"then `retrycli mark-sent {message_id}` if it arrived, else `retrycli retry {message_id}`"
    )


def _rfc_3339(column: str, value: object) -> object:
    """A column's value for JSON: SQLite has times as texts, and one that can't be read stays as it is."""
    from retrycli.domain.errors import InvalidMessage
    from retrycli.domain.row_parsing import utc_time

    if column not in TIMES:
        return value
    try:
        return utc_time(column, value)
    except InvalidMessage:
        return value


def _show_history(found: MessageDetails) -> None:
    """Attempts and what people did besides, in the order in which they came about."""
    from retrycli.views import terminal

    headers = ("No.", "By", "Started", "Outcome", "Code", "ms", "Error")
    rows = _history(found)
    if any(each.external_id for each in found.attempts):
        terminal.show_table((*headers, "Known there as"), rows, texts=2)
    else:
        terminal.show_table(headers, [row[: len(headers)] for row in rows], texts=1)


def _history(found: MessageDetails) -> list[Row]:
    rows: list[tuple[datetime, Row]] = [(each.started_at, _attempt(each, found.ended)) for each in found.attempts]
    rows += [(each.at, (None, each.by, each.at, each.act, None, None, each.detail, None)) for each in found.acts]
    return [row for _, row in sorted(rows, key=lambda each: each[0])]


def _attempt(made: AttemptRecord, ended: frozenset[str]) -> Row:
    return (
        made.number,
        made.made_by,
        made.started_at,
        made.outcome or ("not recorded" if made.pass_id in ended else "under way"),
        made.status_code,
        made.duration_ms,
        made.error,
        made.external_id,
    )


def explain(
    ctx: typer.Context,
    message_id: MessageId,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Show what holds a message back, and when it is tried next."""
    from retrycli.operations.explain import explain as explained
    from retrycli.system.host import Asker
    from retrycli.views import terminal

    loaded = load(ctx, config)
    callers = _callers(loaded, asker := Asker())
    hidden = _none_hidden(callers, asker)
    found = explained(loaded.settings, message_id, callers=callers, none_hidden=hidden)
    _name_the_silent(asker)
    if as_json:
        fields = asdict(found)
        for each in ("is_claimed", "being_sent", "has_begun", "pass_runs", "one_goes_first", "expires_first"):
            del fields[each]
        terminal.show_json({"id": fields.pop("message_id")} | fields)
        return
    terminal.show_table(
        ("Gate", "Open", "Figure", "Time"),
        [(each.name.replace("_", "-"), each.open, _figure(loaded, each), each.time) for each in found.gates],
    )
    terminal.show_facts({"Next attempt": _next_attempt(found)})
    terminal.say(f"Next: {_remedy(found)}")


def _next_attempt(found: Explanation) -> datetime | str:
    from retrycli.views import terminal

    at = found.next_attempt_at
    if found.being_sent:
        later = f"; if that pass has died, {terminal.time_in_words(at)}" if at else ""
        return ("being sent just now" if found.has_begun else "in the pass that has claimed it") + later
    if found.expires_first:
        return "none: it expires before a pass would try it"
    if at is None:
        return "none by a pass as things stand"
    if found.one_goes_first:
        return f"not before {terminal.time_in_words(at)}, and then only if it is the one that is tried first"
    if found.pass_runs and all(each.open for each in found.gates):
        return f"in the pass that runs now, or at {terminal.time_in_words(at)}"
    return at


def _figure(loaded: Loaded, gate: Gate) -> str:
    """What a gate goes by, with commands that work when pasted; cron's has none but our own words."""
    return _suggesting(loaded, gate.figure) if gate.name == "cron" else gate.figure


REMEDIES = {
    "status": "retrycli list-failed",
    "data": "`retrycli show {id}`; mend its row in the application",
    "pause": "retrycli resume",
    "breaker": "retrycli status",
    "disk": "retrycli doctor",
    "cron": LOOK_AT_CRON,
}


def _remedy(found: Explanation) -> str:
    """The command for what stands in the way, first gate first."""
    if any(each.name == "escalation" and each.figure == EscalationReason.UNKNOWN for each in found.gates):
        return may_have_arrived(found.message_id)
    if found.is_claimed:
        return f"retrycli show {found.message_id}"
    usual = "`retrycli retry {id}` tries it now"
    remedy = next((REMEDIES.get(each.name, usual) for each in found.gates if not each.open), usual)
    return remedy.format(id=found.message_id)
