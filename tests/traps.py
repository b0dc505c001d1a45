"""Plant trap functions and operators in a schema on the search path, as another role could. Each raises an error.

There is a trap for each signature that retrycli's SQL could call and that ``pg_catalog`` does not define exactly. The
error names the call that was resolved outside ``pg_catalog``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

from sqlalchemy import Connection, NullPool, create_engine, text

import retrycli

KINDS = (
    ("text", "character varying", "character", "name", '"char"'),
    ("smallint", "integer", "bigint", "numeric", "double precision"),
    ("timestamp with time zone", "timestamp without time zone", "date"),
    ("boolean",),
    ("uuid",),
    ("json",),
    ("jsonb",),
    ("interval",),
    ("regclass", "regtype"),
    ("oid",),
)
"""Groups of types that convert to each other."""
TYPES = tuple(each for kind in KINDS for each in kind)
ANY = {"any", "anyelement", "anycompatible", "anynonarray"}
OPERATORS = ("=", "<>", "<", ">", "<=", ">=", "||", "+", "-", "*", "/", "~~", "~~*", "~")
MOST_ARGUMENTS = 3
BODY = "LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'TRAP: {}'; END $$"


def plant(url: str, schema: str = "public") -> int:
    """Create all traps; return their number."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        made = [*_functions(connection, schema), *_operators(connection, schema)]
        for start in range(0, len(made), 500):
            connection.exec_driver_sql(";\n".join(made[start : start + 500]).replace("%", "%%"))
    engine.dispose()
    return len(made)


def _functions(connection: Connection, schema: str) -> Iterator[str]:
    query = text("""
        SELECT p.proname, pg_catalog.array_agg(pg_catalog.format_type(t.oid, NULL) ORDER BY a.at), p.oid
        FROM pg_catalog.pg_proc p CROSS JOIN LATERAL pg_catalog.unnest(p.proargtypes) WITH ORDINALITY AS a (type, at)
        JOIN pg_catalog.pg_type t ON t.oid = a.type
        WHERE p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace AND p.proname = ANY(:names) AND p.pronargs <= :most
        GROUP BY p.oid, p.proname
    """)
    found = connection.execute(query, {"names": sorted(_called()), "most": MOST_ARGUMENTS}).all()
    there = {(name, tuple(arguments)) for name, arguments, _ in found}
    wanted = {(name, others) for name, arguments, _ in found for others in product(*map(_like, arguments))}
    for name, arguments in sorted(wanted - there):
        signature = f"{name}({', '.join(arguments)})"
        yield f"CREATE FUNCTION {schema}.{signature} RETURNS text {BODY.format(signature)}"


def _operators(connection: Connection, schema: str) -> Iterator[str]:
    query = text("""
        SELECT oprname, pg_catalog.format_type(oprleft, NULL), pg_catalog.format_type(oprright, NULL)
        FROM pg_catalog.pg_operator WHERE oprnamespace = 'pg_catalog'::pg_catalog.regnamespace
    """)
    there = {tuple(row) for row in connection.execute(query)}
    enumerations = text("SELECT pg_catalog.format_type(oid, NULL) FROM pg_catalog.pg_type WHERE typtype = 'e'")
    types = (*TYPES, *connection.execute(enumerations).scalars())
    for name, left, right in product(OPERATORS, types, types):
        if (name, left, right) not in there:
            called = f"{left} {name} {right}"
            trap = f'{schema}."{called.replace(chr(34), "")}"'
            yield f"CREATE FUNCTION {trap}({left}, {right}) RETURNS boolean {BODY.format(called)}"
            made = f"FUNCTION = {trap}, LEFTARG = {left}, RIGHTARG = {right}"
            yield f"CREATE OPERATOR {schema}.{name} ({made})"


def _called() -> set[str]:
    """Return the names of all functions that the package's source calls, in SQL or in Python."""
    sources: Iterable[Path] = Path(retrycli.__file__).parent.rglob("*.py")
    return {name for source in sources for name in re.findall(r"(\w+)\(", source.read_text(encoding="utf-8"))}


def _like(argument: str) -> tuple[str, ...]:
    """Return the types that PostgreSQL may convert to an argument type."""
    if argument.strip('"') in ANY:
        return TYPES
    return next((kind for kind in KINDS if argument in kind), (argument,))
