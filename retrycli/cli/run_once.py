"""The ``run-once`` command, which cron starts for each pass."""

import os
import signal
import sys
from dataclasses import replace
from types import FrameType
from typing import Annotated

import typer

from retrycli import operations
from retrycli.cli.options import MAX_NUMBER, ConfigFile, Json, load_settings
from retrycli.domain.passes import PassSummary, StartedBy
from retrycli.system.process import has_terminal, parents, started_by
from retrycli.views import log_lines, terminal


class Signals:
    """Handle SIGTERM, SIGINT and SIGHUP: the first signal asks the pass to stop.

    A later SIGTERM or SIGINT ends the process immediately. A later SIGHUP is ignored, because the kernel and the shell
    may both send SIGHUP when a terminal closes. Under nohup, SIGHUP is always ignored.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
        elif number != signal.SIGHUP:
            # Messages in flight stay claimed until their claims expire; then a pass recovers them.
            os._exit(128 + number)

    def stop_requested(self) -> bool:
        """Return whether a signal was received."""
        return self.received is not None


def run_once(
    ctx: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent, without sending or writing anything.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, max=MAX_NUMBER, help="Attempt at most N messages.")] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="If the ticketing API is down, send a probe now instead of waiting.")
    ] = False,
    wait_lock: Annotated[
        float | None, typer.Option(min=0, help="Wait at most N seconds for another pass to end.", show_default="2")
    ] = None,
    # Hidden from help, because only cron lines and timers use this option.
    starter: Annotated[StartedBy | None, typer.Option("--started-by", hidden=True)] = None,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Run one pass: deliver the messages that are due. Cron starts this command."""
    settings = load_settings(ctx, config)
    if dry_run:
        from retrycli.cli.dry_run import show_preview

        show_preview(settings, limit, as_json=as_json)
        return
    signals = Signals()
    try:
        with terminal.progress() as follow:
            summary = operations.run_pass.run_once(
                settings,
                limit=limit,
                probe=probe,
                wait_lock_seconds=wait_lock,
                listen=follow,
                runtime=replace(operations.wiring.DEFAULT_RUNTIME, stop_requested=signals.stop_requested),
                started_by=starter or started_by(os.environ, parents(), at_terminal=has_terminal()),
            )
    except Exception as error:
        log_lines.file_failure(error)
        raise
    if as_json:
        terminal.show_json(summary._asdict())
    elif sys.stdout.isatty():
        _show(summary)
    raise typer.Exit(128 + signals.received if signals.received else summary.exit_status)


def _show(summary: PassSummary) -> None:
    words = operations.words
    why = words.end_of_pass(summary.reason, summary.detail)
    terminal.say(
        f"Pass {summary.result} after {summary.duration_seconds:.1f} s" + (f": {terminal.told(why)}" if why else ""),
        f"  {summary.sent:,} sent, {summary.rescheduled:,} rescheduled, {summary.escalated:,} escalated, "
        f"{summary.released:,} {words.RELEASED}; {summary.unknown:,} with unknown outcome",
    )
    step = "retrycli escalations" if summary.escalated else "retrycli list-failed" if summary.rescheduled else None
    terminal.say(f"Next: {step or 'retrycli status'}")
