"""``passes``."""

from __future__ import annotations

from dataclasses import asdict
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated

import typer

from retrycli.cli.options import MAX_NUMBER, ConfigFile, Header, Json, load_settings
from retrycli.cli.run_once import RELEASED_TEXT, describe_end

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from retrycli.domain.pass_record import PassRecord, PauseRecord

COUNTS = ("sent", "rescheduled", "escalated", "unknown", "released")


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("passes")(passes)


def passes(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=MAX_NUMBER, help="Show at most N passes, newest first.")] = 20,
    header: Header = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Show the last passes, including skipped ones."""
    from retrycli.operations import status
    from retrycli.views import terminal

    found, pauses, lost = status.last_passes(load_settings(ctx, config), limit=limit)
    if as_json:
        terminal.show_json(
            {"passes": [asdict(record) for record in found], "pauses": [asdict(pause) for pause in pauses]}
        )
        return
    if terminal.on_terminal():
        rows: list[tuple[datetime, str | None, str, str | None]]
        rows = [
            (record.started_at, record.started_by, record.result_in_words(lost), _describe_result(record))
            for record in found
        ]
        since = min((at for at, *_ in rows), default=None)
        rows += [(pause.at, pause.by, pause.act, pause.detail) for pause in _pauses_since(pauses, since)]
        rows.sort(key=itemgetter(0), reverse=True)
        terminal.show_table(("Started", "By", "Result", "Result"), rows)
        terminal.say("Next: retrycli status")
        return
    terminal.show_table(
        ("Started", "Finished", "Result", *map(str.capitalize, COUNTS), "Reason", "Started by"),
        [
            (
                record.started_at,
                record.finished_at,
                record.result_in_words(lost),
                # The counts are written when a pass ends.
                *(None if record.result is None else getattr(record, name) for name in COUNTS),
                describe_end(record.reason, record.detail),
                record.started_by,
            )
            for record in found
        ],
        named=header,
    )


def _pauses_since(pauses: Sequence[PauseRecord], since: datetime | None) -> Iterator[PauseRecord]:
    """Yield the pauses since the oldest pass shown, and the one in force then. Newest first."""
    for pause in pauses:
        yield pause
        if since is not None and pause.at < since:
            return


def _describe_result(found: PassRecord) -> str | None:
    """Return the counts that are not zero, and why the pass ended early."""
    words = {"unknown": "of unknown outcome", "released": RELEASED_TEXT}
    counts = [f"{number:,} {words.get(name, name)}" for name in COUNTS if (number := getattr(found, name))]
    why = describe_end(found.reason, found.detail)
    quiet = "nothing was due" if found.result == "completed" else None
    return "; ".join(filter(None, (", ".join(counts), why))) or quiet
