"""An HTTP answer, and what it means by a preset's rules."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Self

import httpx

from retrycli.gateway.preset import Preset, SuccessRule
from retrycli.outcome import Outcome, OutcomeKind, kind_of_status, parse_retry_after

ANSWER_LIMIT = 64 * 1024
"""How many bytes of an answer are read, and no more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """As much of an HTTP answer as is looked at."""

    status: int
    retry_after: str | None
    text: str
    whole: bool

    @classmethod
    async def read(cls, response: httpx.Response) -> Self:
        """Read an answer as far as it goes or may go, and let go of its connection."""
        content = bytearray()
        async with aclosing(response):
            assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101  told to the type checker
            async for chunk in response.stream:
                content += chunk
                if len(content) > ANSWER_LIMIT:
                    break
        return cls(
            status=response.status_code,
            retry_after=response.headers.get("Retry-After"),
            text=content[:ANSWER_LIMIT].decode("utf-8", "replace"),
            whole=len(content) <= ANSWER_LIMIT,
        )

    @property
    def json(self) -> object:
        """Its parsed content; None where there is none.

        Raises:
            ValueError: it is no JSON, or was cut off.
        """
        if not self.text.strip():
            return None
        if not self.whole:
            raise ValueError("the answer is too long")
        try:
            return json.loads(self.text)
        except RecursionError as error:
            raise ValueError("the answer is nested too deeply") from error


def outcome_of(answer: Answer, preset: Preset, now: datetime) -> Outcome:
    """What an answer means.

    Args:
        answer: what came back.
        preset: its exceptions first, then its success rule, then the table of `kind_of_status`.
        now: the time of the answer, for a Retry-After that is a date.

    Returns:
        The outcome. Its error may quote the other side's words at any length.
    """
    retry_after = parse_retry_after(answer.retry_after, now)
    exception = next((rule for rule in preset.classify if rule.applies(answer.status, answer.text)), None)
    kind = exception.outcome if exception else kind_of_status(answer.status, retry_after=retry_after)
    if kind is OutcomeKind.DELIVERED:
        return Outcome(kind, answer.status) if exception else _judged(answer, preset.success, preset.answer.errors)
    return Outcome(kind, answer.status, _with_words(f"HTTP {answer.status}", answer, preset.answer.errors), retry_after)


def access_token(answer: Answer) -> str | None:
    """The token that the answer to a log-in brings; None where it brings none."""
    try:
        content = answer.json
    except ValueError:
        return None
    token = content.get("access_token") if isinstance(content, dict) else None
    return token if isinstance(token, str) and answer.status < 300 else None  # noqa: PLR2004  the class of success


def _judged(answer: Answer, rule: SuccessRule, error_fields: Collection[str]) -> Outcome:
    """Apply the success rule to a 2xx answer."""
    delivered = Outcome(OutcomeKind.DELIVERED, answer.status)
    if rule.field is None:
        return delivered
    try:
        content = answer.json
    except ValueError:
        error = f"HTTP {answer.status}, but the answer is no JSON to be judged by"
        return Outcome(OutcomeKind.UNKNOWN, answer.status, error)
    if isinstance(content, dict) and rule.field in content:
        succeeded = content[rule.field] == rule.equals
    else:
        succeeded = not rule.required
    if succeeded:
        return delivered
    return Outcome(OutcomeKind.REFUSED, answer.status, _with_words("refused", answer, error_fields))


def _with_words(start: str, answer: Answer, fields: Collection[str]) -> str:
    """What is wrong, in the words of the answer's JSON where it has any."""
    try:
        content = answer.json
    except ValueError:
        return start
    if not isinstance(content, dict):
        return start
    found = next((content[name] for name in fields if content.get(name)), None)
    parts = found if isinstance(found, list) else [found]
    words = "; ".join(part if isinstance(part, str) else json.dumps(part) for part in parts if part)
    return f"{start}: {words}" if words else start
