"""Quotations of a message are removed from the stored error; other text is kept."""

from __future__ import annotations

import html
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.outcome import one_line
from retrycli.gateway.redaction import LOOKED_AT, QUOTED, without_quotations
from tests.gateway.deliveries import deliver, gateway_settings, queued
from tests.gateway.hostile import Hostile, answer

BODY = 'Dear Ms Oyelaran,\n\nyour "Rückgabe" is on its way.'


def cleaned(error: str, **texts: str) -> str:
    return without_quotations(one_line(error), queued(**{"subject": None, "body": BODY, **texts}).message)


@pytest.mark.parametrize(
    "quotation",
    [
        BODY,
        BODY[:30],
        BODY[5:40],
        json.dumps(BODY)[1:-1],
        json.dumps(BODY, ensure_ascii=False)[1:-1],
        BODY.replace("\n", "  "),
        html.escape(BODY),
        html.escape(BODY, quote=False),
        quote(BODY),
        quote_plus(BODY),
    ],
    ids=[
        "whole",
        "beginning",
        "middle",
        "JSON",
        "JSON with its umlauts",
        "one line",
        "HTML",
        "HTML text",
        "URL",
        "form",
    ],
)
def test_a_quotation_is_removed_in_every_encoding(quotation: str) -> None:
    assert cleaned(f"HTTP 422: <{quotation}> is not text") == "HTTP 422: <…> is not text"


def test_the_subject_is_removed_too() -> None:
    assert cleaned("HTTP 422: no ticket for Re: Invoice 2026-118!", subject="Re: Invoice 2026-118") == (
        "HTTP 422: no ticket for …!"
    )


def test_accidental_matches_are_kept() -> None:
    error = "HTTP 422: your message is too long"
    assert cleaned(error) == error
    assert cleaned("x" * QUOTED, body="x" * (QUOTED - 1)) == "x" * QUOTED
    assert cleaned("x" * QUOTED, body="x" * QUOTED) == "…"


def test_an_endless_text_is_compared_only_as_far_as_it_may_be_quoted() -> None:
    long = "x" * LOOKED_AT + " and a rare word at its end"
    assert cleaned(f"HTTP 413: {long[:100]}", body=long) == "HTTP 413: …"
    assert cleaned("HTTP 413: a rare word at its end", body=long) == "HTTP 413: a rare word at its end"


@given(before=st.text(), body=st.text(min_size=QUOTED), after=st.text())
def test_no_sixteen_characters_of_a_body_remain(before: str, body: str, after: str) -> None:
    line = one_line(body)
    left = cleaned(before + body + after, body=body)
    runs = {line[at : at + QUOTED] for at in range(len(line) - QUOTED + 1)}
    assert not any(run in piece for run in runs for piece in left.split("…"))


@pytest.mark.parametrize("status", [200, 400, 503])
def test_an_answer_that_echoes_a_message_keeps_no_word_of_it(status: int) -> None:
    message = queued(body=BODY)
    with Hostile(answer(status, json.dumps({"succeeded": False, "errors": [{"sent": BODY}]}).encode())) as server:
        outcome = deliver(gateway_settings(server.url), message)
    assert (outcome.error or "").endswith(': {"sent": "…"}')
