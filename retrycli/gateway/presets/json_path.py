"""Paths to values in a JSON response, such as ``errors.0``, ``items.*.id`` and
``journals.[notes*={delivery_key}].private_notes``.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator

from retrycli.gateway.presets.template import Fields, check_template, fill_text, plain

STEP = re.compile(r"\[(\w+(?:\.(?:\w+|\*))*)(=|\*=|!=)([^\[\]]*)\]|([^.\[\]]+)")

# A name, a position in a list, or "*" for all entries of a list. A tuple (part, operator, string) selects the entries
# of a list whose part equals (=), contains (*=) or differs from (!=) the string. A missing part differs from every
# string.
Step = str | tuple[str, str, str]


def check_path(path: str) -> str:
    """Return a path unchanged if it is valid.

    Raises:
        ValueError: the path is invalid.
    """
    for step in _parse(path):
        if isinstance(step, tuple):
            check_template(step[2])
    return path


JsonPath = Annotated[str, AfterValidator(check_path)]


def find(tree: object, path: str, fields: Fields = {}) -> list[object]:  # noqa: B006  the default is never changed
    """Return all values at a path; an empty list if there are none. The fields are the values for the path's own
    templates.

    Raises:
        ValueError: a compared value is nested too deeply.
    """
    found = [tree]
    for step in _parse(path):
        found = [inner for value in found for inner in _values_at(value, step, fields)]
    return found


def first_gap(tree: object, path: str, fields: Fields = {}) -> str | None:  # noqa: B006  the default is never changed
    """Return the first step of a path that is missing in a tree; None if the path can be followed to its end.

    A list may be empty, and the last value may be null. Two kinds of steps may be missing, because conditions test
    whether they exist: the last name within brackets, and a list position at the end of the path.
    """
    found = [tree]
    steps = _parse(path)
    for number, step in enumerate(steps, 1):
        for value in found:
            if (gap := _gap(value, step, ends=number == len(steps))) is not None:
                return gap
        found = [inner for value in found for inner in _values_at(value, step, fields)]
    return None


def _gap(tree: object, step: Step, *, ends: bool) -> str | None:
    match tree, step:
        case list(), (str(part), str(), str()):
            above, _, _ = part.rpartition(".")
            gaps = (first_gap(entry, above) for entry in tree) if above else ()
            return next((gap for gap in gaps if gap is not None), None)
        case list(), "*":
            return None
        case list(), str() if step.isascii() and step.isdigit() and (ends or int(step[:9]) < len(tree)):
            return None
        case dict(), str() if step in tree:
            return None
        case _:
            return step if isinstance(step, str) else step[0]


def _values_at(tree: object, step: Step, fields: Fields) -> Iterator[object]:
    match tree, step:
        case list(), (str(part), str(how), str(template)):
            wanted = plain(fill_text(template, fields))
            yield from (entry for entry in tree if _matches(entry, part, how, wanted))
        case list(), "*":
            yield from tree
        case list(), str() if step.isascii() and step.isdigit() and len(step) < 10:  # noqa: PLR2004  no list has 10**9 entries
            yield from tree[int(step) : int(step) + 1]
        case dict(), str() if step in tree:
            yield tree[step]
        case _:
            pass


def _matches(entry: object, part: str, how: str, wanted: str) -> bool:
    values = [plain(value) for value in find(entry, part)]
    match how:
        case "!=":
            return wanted not in values
        case "*=":
            return any(wanted in value for value in values)
        case _:
            return wanted in values


@lru_cache(maxsize=256)
def _parse(path: str) -> tuple[Step, ...]:
    steps: list[Step] = []
    at = 0
    while at < len(path):
        found = STEP.match(path, at)
        if found is None:
            raise _invalid(path)
        steps.append(found[4] or (found[1], found[2], found[3]))
        at = found.end()
        if at < len(path) and path[at] == ".":
            at += 1
    if not steps or path.endswith("."):
        raise _invalid(path)
    return tuple(steps)


def _invalid(path: str) -> ValueError:
    return ValueError(
        f"{path!r} is not a valid path: write names separated by dots, as in errors.0.message, or [name=text] to "
        "select entries of a list"
    )
