"""The ``passes`` command: the last passes, pauses and holds."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Annotated

import typer

from retrycli import operations
from retrycli.cli.arguments import After
from retrycli.cli.options import MAX_NUMBER, ConfigFile, Header, Json, load_settings
from retrycli.domain.passes import COUNTS, PauseRecord
from retrycli.views import terminal


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
            terminal.say(f"Next page: retrycli passes --limit {limit} --after {page.next}")
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
