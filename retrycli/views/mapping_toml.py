"""Write proposed settings as TOML with comments, to edit and to use as a configuration file."""

from collections.abc import Iterator, Sequence
from textwrap import wrap

from retrycli.config.template import HIDDEN, toml_value
from retrycli.domain.known_table import Sample, ValueKind
from retrycli.domain.mapping_proposal import DEFAULT_TABLE, Proposal, ProposedLine
from retrycli.domain.sanitize import printable
from retrycli.domain.table_mapping import as_setting
from retrycli.views import formatting

WIDTH = 98  # maximum number of characters of a comment's line, unless one word is longer
TO_FILL_IN = (
    ("failed", "Replace [] with the value of messages that could not be delivered. Only these are retried."),
    ("sent", "Replace [] with the value of messages that were delivered."),
)


def mapping_toml(proposal: Proposal, *, place: str, url: str | None, others: Sequence[str] = ()) -> str:
    """Return the sections of the configuration file that describe a table.

    Args:
        proposal: the proposed settings.
        place: the database, without secrets.
        url: the value of ``database.url``; None to leave it out.
        others: the names of other tables that look like outgoing messages.
    """
    return "\n".join(_lines(proposal, place, url, others)) + "\n"


def _lines(proposal: Proposal, place: str, url: str | None, others: Sequence[str]) -> Iterator[str]:
    table = proposal.candidate.table
    yield _comment(f"The {table.kind} {table.name} in {place}. Nothing was written. Check every line.")
    if others:
        yield _comment(f"Other tables that look like outgoing messages: {', '.join(others)}")
    if proposal.is_conforming:
        rest = "" if table.name == DEFAULT_TABLE else ", except for its name"
        yield _comment(f"It has the columns and statuses that retrycli expects: no settings are needed{rest}.")
    yield from ("", "[database]")
    if url is not None:
        hint = "# set it with its secrets, or set RETRYCLI_DATABASE__URL:\n# " if HIDDEN in url else ""
        yield f"{hint}url = {_value(url)}"
    yield f"table = {_value(table.name)}"
    if not proposal.is_conforming:
        yield '# where = "…"  # an SQL condition, if only some of its rows are outgoing messages'
    yield from _columns(proposal)
    yield from _status(proposal)


def columns_in_words(proposal: Proposal) -> str:
    """List the columns that look like the roles of a message, by role."""
    return ", ".join(role if name == role else f"{role}: {name}" for role, name in proposal.columns.items())


def values_in_words(proposal: Proposal) -> str:
    """List the values of the status column with the numbers of their rows, and say which rows were counted."""
    if proposal.sample.problem is not None:
        return proposal.sample.problem
    if not proposal.sample.rows:
        return "no rows"
    counts = [(f"{_value(value)} ×{rows:,}", value in proposal.older) for value, rows in proposal.status.counts]
    newest = ", ".join(text for text, is_older in counts if not is_older)
    older = "".join(f", older: {text}" for text, is_older in counts if is_older)
    return f"{newest or 'none'} in {counted_rows(proposal.sample)}{older}"


def _columns(proposal: Proposal) -> Iterator[str]:
    if not proposal.lines:
        return
    yield from ("", "[database.columns]")
    if not proposal.is_conforming and proposal.unchanged:
        yield _comment(f"Columns with retrycli's own names need no line: {', '.join(proposal.unchanged)}")
    for line in proposal.lines:
        yield from _column(line)


def _column(line: ProposedLine) -> Iterator[str]:
    if line.source is None:
        yield _comment(f"{line.role}: {line.note}")
        return
    if line.note:
        yield _comment(f"{line.role}: {line.note}")
    yield f"{'# ' if line.is_open else ''}{line.role} = {_value(as_setting(line.source))}"


def _status(proposal: Proposal) -> Iterator[str]:
    column = proposal.candidate.roles.get("status")
    if column is None:
        return
    if not proposal.has_own_statuses:
        yield from ("", "[database.status]")
    yield from _counts(proposal, column.name, column.kind)
    if proposal.has_own_statuses:
        return
    for name, text in TO_FILL_IN:
        if name == "sent" and proposal.sent is not None:
            yield f"sent = {_value(proposal.sent)}  # check that this is the value of messages that were delivered"
        else:
            # The settings reject [], so that a value that was not filled in is noticed.
            yield from (_comment(text), f"{name} = []")
    yield _comment("Optional: pending, approved, and rejected, without which `reject` is not possible.")


def _counts(proposal: Proposal, name: str, kind: ValueKind) -> Iterator[str]:
    sample, shown = proposal.sample, proposal.status
    if sample.problem is not None:
        yield _comment(f"The values of {name} ({kind}) were not counted: {sample.problem}")
        return
    if not sample.rows:
        yield _comment(f"The table has no rows, so the values of {name} ({kind}) are not known.")
        return
    yield _comment(f"Values of {name} ({kind}) in {counted_rows(sample)}:")
    for value, rows in shown.counts:
        where = " (in older rows)" if value in proposal.older else ""
        yield _comment(f"  {_value(value)}: {formatting.count(rows, 'row')}{where}")
    if shown.empty:
        yield _comment(f"  null: {formatting.count(shown.empty, 'row')}")
    if shown.hidden:
        yield _comment(f"  not shown, because they may be customers' words: {formatting.count(shown.hidden, 'row')}")


def counted_rows(sample: Sample) -> str:
    """Describe which rows were counted."""
    rows = formatting.count(sample.rows, "row")
    if sample.is_whole:
        return f"all {rows}"
    return f"the newest {rows}" if sample.is_newest else f"{rows}, in no particular order"


def _comment(text: str) -> str:
    # Control characters become escapes, so that no name can end the comment.
    lines = wrap(printable(text), WIDTH, break_long_words=False, break_on_hyphens=False) or [""]
    return "\n".join(f"# {line}" for line in lines)


def _value(value: object) -> str:
    """Format a value as TOML. Escape every unprintable character, so that the text is also safe on a terminal."""
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in toml_value(value))
