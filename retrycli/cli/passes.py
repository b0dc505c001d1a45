"""The ``passes`` command: the last passes, pauses and holds."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from operator import itemgetter
from typing import Annotated

import typer

from retrycli import operations
from retrycli.cli.options import MAX_NUMBER, ConfigFile, Header, Json, load_settings
from retrycli.cli.run_once import RELEASED_TEXT, describe_end
from retrycli.domain.passes import PassRecord, PauseRecord
from retrycli.views import terminal

COUNTS = ("sent", "rescheduled", "escalated", "unknown", "released")


def passes(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=MAX_NUMBER, help="Show at most N passes, newest first.")] = 20,
    header: Header = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Show the last passes, including skipped ones."""
    found, pauses, lost = operations.status.last_passes(load_settings(ctx, config), limit=limit)
    if as_json:
        terminal.show_json(
            {"passes": [asdict(record) for record in found], "pauses": [asdict(pause) for pause in pauses]}
        )
    elif terminal.on_terminal():
        rows: list[tuple[datetime, str | None, str, str | None]] = [
            (record.started_at, record.started_by, record.result_in_words(lost), _describe_result(record))
            for record in found
        ]
        since = min((at for at, *_ in rows), default=None)
        rows += [(pause.at, pause.by, pause.act, pause.detail) for pause in _pauses_since(pauses, since)]
        rows.sort(key=itemgetter(0), reverse=True)
        terminal.show_table(("Started", "By", "Result", "Details"), rows)
        terminal.say("Next: retrycli status")
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
                    describe_end(record.reason, record.detail),
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


def _describe_result(found: PassRecord) -> str | None:
    words = {"unknown": "with unknown outcome", "released": RELEASED_TEXT}
    counts = [f"{number:,} {words.get(name, name)}" for name in COUNTS if (number := getattr(found, name))]
    described = "; ".join(filter(None, (", ".join(counts), describe_end(found.reason, found.detail))))
    return described or ("nothing was due" if found.result == "completed" else None)
