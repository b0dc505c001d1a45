"""Sentences about results, which the commands and the pages share."""

from __future__ import annotations

import pytest

from retrycli.domain.outcome import LookUp, Presence
from retrycli.operations import words


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (LookUp(Presence.ARRIVED), "Message 7 has arrived and is marked as sent."),
        (LookUp(Presence.ARRIVED, "its row is locked"), "Message 7 has arrived, but its row is locked."),
        (LookUp(Presence.ABSENT), "Message 7 has not arrived. Nothing was changed."),
        (
            LookUp(Presence.UNKNOWN, "HTTP 503"),
            "It is not known whether message 7 has arrived: HTTP 503. Nothing was changed.",
        ),
    ],
)
def test_a_look_up_is_told_with_what_it_changed(found: LookUp, told: str) -> None:
    assert words.looked_up(7, found) == told
