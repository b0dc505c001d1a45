"""JSON of values that are no JSON by themselves: times, bytes, records, and numbers that JSON does not have."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf, nan

from retrycli.views.formatting import as_json


@dataclass(frozen=True, slots=True)
class Record:
    """A record as operations return them."""

    at: datetime
    score: float
    inner: object = None


def test_a_record_is_an_object_of_its_fields_in_their_order() -> None:
    at = datetime(2026, 3, 2, 12, tzinfo=UTC)
    record = Record(at, 0.5, [Record(at, 1, b"\xff")])
    assert as_json({"record": record}) == (
        '{"record": {"at": "2026-03-02T12:00:00Z", "score": 0.5, '
        '"inner": [{"at": "2026-03-02T12:00:00Z", "score": 1, "inner": "\\ufffd"}]}}'
    )


def test_numbers_that_json_does_not_have_are_texts_in_records_too() -> None:
    found = json.loads(as_json([Record(datetime.now(UTC), nan, {"highest": inf, "lowest": (-inf, 1.5)})]))
    assert (found[0]["score"], found[0]["inner"]) == ("NaN", {"highest": "Infinity", "lowest": ["-Infinity", 1.5]})
