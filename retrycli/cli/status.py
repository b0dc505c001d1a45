"""The commands ``status`` and ``passes``: scheduler health, queue counts, and the last passes, pauses and holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Annotated

import typer

from retrycli import operations
from retrycli.cli.arguments import After
from retrycli.cli.options import MAX_NUMBER, NOT_OK, ConfigFile, Header, Json, load, load_settings
from retrycli.config.loader import Loaded
from retrycli.domain import suggested
from retrycli.domain.passes import COUNTS, Hold, PassResult, Pause, PauseRecord
from retrycli.system.host import ANSWER_SECONDS, Asker, Host
from retrycli.views import formatting, terminal

HOLDS_SHOWN = 10  # maximum number of holds that the text lists


def status(
    ctx: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 3 unless the state is ok and a next run is known.")
    ] = False,
    max_escalated: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MAX_NUMBER,
            help="With --check, also exit with 3 if more than N messages are escalated.",
            metavar="N",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Show scheduler health and queue counts."""
    if max_escalated is not None and not check:
        raise typer.BadParameter("works only with --check; add it", param_hint="--max-escalated")
    loaded = load(ctx, config)
    found = operations.status.status(loaded.settings, host=Host(run=(asker := Asker())))
    if as_json:
        terminal.show_json(operations.bodies.status(found))
    else:
        _show_status(loaded, found)
    report_silent_programs(asker)
    if check and found.silence is not None:
        why = f"{found.silence.words(terminal.time_in_words)}; {found.silence.remedy}"
        terminal.complain(f"retrycli: {complete_commands(loaded, why)}")
    escalated = found.messages["escalated"]
    too_many = max_escalated is not None and escalated > max_escalated
    if too_many:
        terminal.complain(
            f"retrycli: {formatting.count(escalated, 'message')} {'is' if escalated == 1 else 'are'} escalated, more "
            f"than {max_escalated}; see `retrycli escalations`"
        )
    is_healthy = found.state == "ok" and found.silence is None and not too_many
    raise typer.Exit(NOT_OK if check and not is_healthy else 0)


def _show_status(loaded: Loaded, found: operations.status.Status) -> None:
    terminal.show_facts(
        {
            "State": terminal.told(operations.words.state(found)),
            "Passes": operations.words.last_pass(found),
            **_cause_facts(found),
            **{
                f"Host {host.host}": f"its last pass began {formatting.ago(host.started_at, found.now)}"
                + ("; check its cron line, timer or application" if host.late else "")
                for host in found.hosts
                if len(found.hosts) > 1
            },
            "Next run": _next_run(loaded, found),
            "Waiting": found.messages["waiting"],
            "Due": found.messages["due"],
            "Sending": found.messages["sending"],
            **_claim_facts(found),
            "Escalated": found.messages["escalated"],
            **({"Expired": expired} if (expired := operations.words.expired(found)) else {}),
            **{
                f"Breaker {breaker.state}": terminal.told(breaker.description)
                + (f", {formatting.count(breaker.failures, 'failure')} in a row" if breaker.failures else "")
                for breaker in found.breakers
            },
            **_refusal_facts(found),
            **({"Disk": found.disk} if found.disk else {}),
            **({"Not accepted": suggested.quoted(found.unaccepted)} if found.unaccepted else {}),
            **({"Left out": operations.words.left_out(found.left_out)} if found.left_out else {}),
            "Pause": "none" if found.pause is None else describe_stop(found.pause),
            **_hold_facts(found.holds),
            **_window_facts(found.windows),
            "Lock": found.lock.in_words(found.now) if found.lock else "free",
        }
    )
    first = "retrycli run-once" if found.next_run else "`retrycli run-once`, and then `retrycli cron install`"
    steps = {
        "never_run": complete_commands(loaded, first),
        "late": "retrycli doctor",
        "paused": "retrycli resume",
        "down": "retrycli passes" if found.breakers else "retrycli doctor",
    } | ({"down": "retrycli table check"} if found.unaccepted else {})
    usual = "retrycli escalations" if found.messages["escalated"] else "retrycli list-failed"
    terminal.say(f"Next: {steps.get(found.state, 'retrycli doctor' if found.silence else usual)}")


def _next_run(loaded: Loaded, found: operations.status.Status) -> datetime | str | None:
    if found.silence is None:
        return found.next_run
    if found.last_pass is None:
        return "none"  # the last line of the output suggests how to start passes
    return complete_commands(loaded, f"none; {found.silence.remedy}")


def _claim_facts(found: operations.status.Status) -> dict[str, str]:
    # All messages in state ``sending`` are claimed, but only some of them have a request in flight.
    if not found.messages["sending"] or (found.lock is None and not found.unrecorded):
        return {}
    return {"Claimed by": "the running pass" if found.lock else "a pass that has ended"}


def _cause_facts(found: operations.status.Status) -> dict[str, str]:
    last = found.last_pass
    if last is None or last.detail is None or last.result == PassResult.PAUSED:
        return {}
    return {"Cause": suggested.quoted(terminal.told(last.detail))}


def _refusal_facts(found: operations.status.Status) -> dict[str, str]:
    # The facts about the last pass already include its own refusals.
    return {
        f"API {refusal.destination}": f"refused requests at {terminal.time_in_words(refusal.at)}: {refusal.detail}; "
        + (
            "no request since then, because nothing was due"
            if refusal.was_idle
            else "nothing has been delivered to it since"
        )
        for refusal in found.refusals
        if found.last_pass is None or found.last_pass.started_at != refusal.at
    }


def describe_stop(stop: Pause | Hold) -> str:
    """Describe who paused deliveries, or holds a part of them, until when, and why."""
    until = f" until {terminal.time_in_words(stop.until)}" if stop.until else ""
    return f"by {stop.by}{until}" + (f": {stop.reason}" if stop.reason else "")


def _hold_facts(holds: Sequence[operations.pause.ActiveHold]) -> dict[str, str]:
    facts = {
        f"Hold {active.hold.part}": f"{describe_stop(active.hold)}; "
        + formatting.count(active.messages, "waiting message")
        for active in holds[:HOLDS_SHOWN]
    }
    more = len(holds) - HOLDS_SHOWN
    return facts | ({"Holds": suggested.own(f"{more:,} more; see `retrycli status --json`")} if more > 0 else {})


def _window_facts(windows: Sequence[operations.status.WindowStatus]) -> dict[str, str]:
    closed = [
        f"{', '.join(each.types)} closed until {terminal.time_in_words(each.next_opening)}"
        for each in windows
        if each.next_opening is not None
    ]
    return {"Window": "; ".join(closed)} if closed else {}


def complete_commands(loaded: Loaded, text: str) -> str:
    """Complete the commands in a text, so that users can paste them. Unless the user is root, the command that installs
    the schedule gets sudo.
    """
    return suggested.quoted(
        text.replace("`retrycli cron install`", operations.schedule.next_run.to_install(loaded, Host()))
    )


def report_silent_programs(asker: Asker) -> None:
    """Warn about a program, such as ``crontab``, that did not answer in time."""
    for program in sorted(asker.silent):
        terminal.complain(
            f"retrycli: `{program}` did not respond within {ANSWER_SECONDS} s, so a cron line that only it can show is "
            "not counted"
        )


def passes(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=MAX_NUMBER, help="Show at most N passes, newest first.")] = 20,
    after: After = None,
    header: Header = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Show the last passes, including skipped ones."""
    page = operations.status.passes(load_settings(ctx, config), after=after, limit=limit)
    found, lost = page.passes, page.unrecorded
    if as_json:
        terminal.show_json(operations.bodies.passes(page))
    elif terminal.on_terminal():
        rows: list[tuple[datetime, str | None, str, str | None]] = [
            (
                record.started_at,
                record.started_by,
                record.result_in_words(lost),
                operations.words.result_of_pass(record),
            )
            for record in found
        ]
        since = min((at for at, *_ in rows), default=None)
        rows += [(pause.at, pause.by, pause.act, pause.detail) for pause in _pauses_since(page.pauses, since)]
        rows.sort(key=itemgetter(0), reverse=True)
        told = [(*row, detail and terminal.told(detail)) for *row, detail in rows]
        terminal.show_table(("Started", "By", "Result", "Details"), told)
        terminal.say("Next: retrycli status")
        if page.next is not None:
            terminal.say(f"Next page: {suggested.line('passes', '--limit', limit, '--after', page.next)}")
    else:
        terminal.show_table(
            ("Started", "Finished", "Result", *map(str.capitalize, COUNTS), "Reason", "Started by"),
            [
                (
                    record.started_at,
                    record.finished_at,
                    record.result_in_words(lost),
                    # The counts are written when a pass ends. Until then, zeros would be wrong, so show nothing.
                    *(None if record.result is None else getattr(record, name) for name in COUNTS),
                    operations.words.end_of_pass(record.reason, record.detail),
                    record.started_by,
                )
                for record in found
            ],
            named=header,
        )


def _pauses_since(pauses: Sequence[PauseRecord], since: datetime | None) -> Iterator[PauseRecord]:
    """Yield pauses and resumptions, newest first, back to the last one before the oldest pass shown (``since``)."""
    for pause in pauses:
        yield pause
        if since is not None and pause.at < since:
            return
