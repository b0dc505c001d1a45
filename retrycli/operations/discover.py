"""Find the table with the application's outgoing messages, and propose the settings that describe it."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from difflib import get_close_matches

from retrycli.config.settings import Settings
from retrycli.config.template import masked_url
from retrycli.domain.errors import RetrycliError, SchemaMismatch
from retrycli.domain.known_table import KnownTable, Sample
from retrycli.domain.mapping_proposal import Proposal, propose
from retrycli.domain.table_ranking import Candidate, examine, rank
from retrycli.operations.database_option import naming_option, with_database
from retrycli.operations.wiring import connect
from retrycli.store.catalogue import list_tables
from retrycli.store.database import Database
from retrycli.store.table_sample import TableSample

MOST = 8  # maximum number of tables that are listed, and whose values are counted
COUNTED = ("status", "message_type")  # roles whose values are counted
OPTION = "--url"


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found.

    Attributes:
        place: the database, without passwords and secrets.
        examined: the number of tables and views in the database.
        proposals: the proposed settings for each table that looks like outgoing messages, the most likely first; for
            the named table only, if one was named.
        url: the value for ``database.url``, with secrets masked; None if the settings have it already.
    """

    place: str
    examined: int
    proposals: tuple[Proposal, ...]
    url: str | None


def discover(settings: Settings, *, url: str | None = None, table: str | None = None) -> Discovery:
    """Rank the tables of a database by how much they look like outgoing messages, and propose settings. Write nothing.

    Args:
        settings: from `retrycli.load_settings`, or created directly; the table that they name need not exist.
        url: the URL of the database; by default ``database.url``.
        table: the name of the table for which to propose settings, with its schema if necessary; by default all that
            look like outgoing messages.

    Raises:
        DatabaseUnavailable: the database can't be opened or read.
        ConfigurationError: the URL is not valid, or there is no such table.
    """
    named = with_database(settings, url, OPTION)
    with naming_option(url and OPTION), closing(connect(named)) as database:
        tables = list_tables(database)
        known = {each.name: each for each in tables}
        found = rank(tables)[:MOST] if table is None else [examine(_find(known, table, database.place))]
        proposals = tuple(_propose(database, each, known) for each in found)
        return Discovery(database.place, len(tables), proposals, url and _as_setting(named))


def _propose(database: Database, candidate: Candidate, known: Mapping[str, KnownTable]) -> Proposal:
    return propose(candidate, _sample(database, candidate), known, is_sqlite=database.is_sqlite)


def _sample(database: Database, candidate: Candidate) -> Sample:
    if not candidate.table.is_readable:
        return Sample(problem=f"the role may not read it; run GRANT SELECT ON {candidate.table.sql} TO the role")
    roles, rows = candidate.roles, TableSample(database, candidate.table, candidate.newest_by)
    try:
        return replace(
            rows.count_values([roles[role] for role in COUNTED if role in roles]),
            lists=rows.count_lists(roles["recipient_email"]) if "recipient_email" in roles else {},
            json_bodies=rows.count_json(roles["body"]) if "body" in roles else 0,
        )
    except RetrycliError:  # its text may quote a row, for example if a view converts values
        return Sample(problem="its rows could not be read, or only in more than a few seconds")


def _as_setting(settings: Settings) -> str:
    file, url = settings.database.file, settings.database.url
    # The settings file may be in another folder, and a relative path is resolved against that folder.
    return masked_url(url) if file is None or "?" in url else f"sqlite:///{file}"


def _find(tables: Mapping[str, KnownTable], name: str, place: str) -> KnownTable:
    if name in tables:
        return tables[name]
    same = [each for each in tables if each.lower() == name.lower()]
    if len(same) == 1:
        return tables[same[0]]
    alike = same or get_close_matches(name, tables)
    hint = f"did you mean {' or '.join(alike)}?" if alike else "`retrycli table discover` lists the likely ones"
    raise SchemaMismatch(f"no table {name} in {place}; {hint}")
