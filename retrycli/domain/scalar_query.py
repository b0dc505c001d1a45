"""Recognise SQL expressions that are one query."""

import re

from retrycli.domain.table_mapping import QUOTED

QUERY = re.compile(r"(SELECT|WITH|VALUES)\b", re.IGNORECASE)


def query_of(sql: str) -> str | None:
    """Return the query of which an expression with balanced parentheses consists, without them; None if it is anything
    else.
    """
    text = sql.strip()
    while _is_enclosed(_blanked(text)):
        text = text[1:-1].strip()
    return text if QUERY.match(_blanked(text).lstrip()) else None


def _blanked(sql: str) -> str:
    """Replace strings, quoted names and comments by spaces."""
    return QUOTED.sub(lambda found: " " * len(found[0]), sql)


def _is_enclosed(sql: str) -> bool:
    """Return whether the first character opens the parenthesis that the last one closes."""
    depth = 0
    for position, char in enumerate(sql):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return position > 0 and position == len(sql) - 1
    return False
