"""Write a skeleton of the settings for a table, in which an operator fills in each role."""

from collections.abc import Iterator, Mapping
from textwrap import wrap

from pydantic import ValidationError

from retrycli.config.settings import DatabaseSettings
from retrycli.config.template import toml_value
from retrycli.domain.known_table import KnownTable
from retrycli.domain.sanitize import HIDDEN, printable
from retrycli.domain.table_mapping import ROLE_MEANINGS, STATUS_MEANINGS

WIDTH = 76  # maximum number of characters of a comment's line after its sign, unless one word is longer


def skeleton(table: KnownTable, *, place: str, url: str | None) -> str:
    """Return the sections of the configuration file that describe a table, with a comment for each role.

    ``place`` is the database without secrets, and ``url`` the value of ``database.url``, or None to leave it out.
    """
    return "\n".join(_lines(table, place, url))


def _lines(table: KnownTable, place: str, url: str | None) -> Iterator[str]:
    yield from _comment(f"The {table.kind} {table.name} in {place}. Write the values, and remove # before their lines.")
    yield "[database]"
    if url is not None:
        hint = "# set it with its secrets, or set RETRYCLI_DATABASE__URL:\n# " if HIDDEN in url else ""
        yield f"{hint}url = {toml(url)}"
    if _can_be_named(table.name):
        yield f"table = {toml(table.name)}"
    else:
        yield from _comment("The settings can't name this table. Create a view with a plain name that takes updates.")
    yield f"# where =  # {DatabaseSettings.model_fields['where'].description}"
    columns = ", ".join(f"{each.name} {each.type}".rstrip() for each in table.columns)
    yield from ("", *_comment(f"The table's columns: {columns}"))
    yield from _comment(
        "A role whose column has its name needs no line. The manual (your-own-table) lists other sources."
    )
    yield from ("[database.columns]", *_keys(ROLE_MEANINGS))
    yield from ("", "[database.status]", *_keys(STATUS_MEANINGS))


def _can_be_named(name: str) -> bool:
    try:
        DatabaseSettings.model_validate({"table": name})
    except ValidationError:
        return False
    return True


def _keys(meanings: Mapping[str, str]) -> Iterator[str]:
    width = max(map(len, meanings))
    return (f"# {name:<{width}} =  # {text}" for name, text in meanings.items())


def _comment(text: str) -> Iterator[str]:
    # Control characters become escapes, so that no name can end the comment.
    return (f"# {line}" for line in wrap(printable(text), WIDTH, break_long_words=False, break_on_hyphens=False))


def toml(value: object) -> str:
    """Format a value as TOML. Escape every unprintable character, so that the text is also safe on a terminal."""
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in toml_value(value))
