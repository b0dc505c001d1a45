"""Read an HTTP answer, and determine its outcome by the rules of a preset."""

import codecs
import json
import re
from collections.abc import Collection, Mapping
from contextlib import aclosing
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple, Self

import httpx

from retrycli.domain.outcome import IN_DOUBT, Outcome, OutcomeKind, kind_of_status, one_line, parse_retry_after
from retrycli.gateway.presets.json_path import find
from retrycli.gateway.presets.loader import Preset
from retrycli.gateway.presets.model import Condition, Reclassification, SuccessRule
from retrycli.gateway.presets.template import Fields, fill_text, plain

# Default maximum number of bytes to read from an answer. The limit is higher for look-ups and other questions of a
# preset, and for long messages, which the answer may repeat.
ANSWER_LIMIT = 256 * 1024
# Maximum number of bytes of any answer. The answer to a look-up may contain a ticket's whole history. Parsing an answer
# of this size blocks the event loop for up to 0.2 s. A list of empty lists needs 25 times its size in memory.
LOOK_UP_LIMIT = 2 * 1024 * 1024
EXTERNAL_ID_LENGTH = 200
# Look up the codec at import. While requests are in flight, the look-up may fail, because it may import a module and
# too few file descriptors may be left.
UTF_8 = codecs.lookup("utf-8-sig")
MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,40}")  # what may be quoted in an error


class Answer(NamedTuple):
    """The parts of an HTTP answer that retrycli uses."""

    status: int
    retry_after: str | None
    text: str
    whole: bool
    headers: Mapping[str, str] = {}

    @classmethod
    async def read(cls, response: httpx.Response, limit: int = ANSWER_LIMIT) -> Self:
        """Read an answer up to ``limit`` bytes, and release its connection."""
        content = bytearray()
        async with aclosing(response):
            assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101  for the type checker
            async for chunk in response.stream:
                content += chunk
                if len(content) > limit:
                    break
        return cls(
            status=response.status_code,
            retry_after=response.headers.get("Retry-After"),
            text=UTF_8.decode(content[:limit], "replace")[0],
            whole=len(content) <= limit,
            headers=response.headers,
        )

    @property
    def media_type(self) -> str:
        """Return the media type of the content, in lower case and without parameters (RFC 9110, section 8.3.1)."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def json(self) -> object:
        """Return the parsed content; None if it is empty.

        Raises:
            ValueError: the content is not valid JSON, is nested too deeply, or was cut off.
        """
        if not self.whole:
            raise ValueError("the response is too long")
        if not self.text.strip():
            return None
        try:
            return _parse(self.text)
        except RecursionError as error:
            raise ValueError("the response is nested too deeply") from error


@lru_cache(maxsize=1)
def _parse(text: str) -> object:
    """Parse JSON. The result is cached for all conditions on an answer, so callers must not change it."""
    parsed: object = json.loads(text)
    return parsed


def outcome_of(answer: Answer, outcome: Outcome, preset: Preset) -> Outcome:
    """Return the outcome of the answer to a message. The preset's success rule applies to the outcome of
    `outcome_of_question`, unless an entry of ``[[classify]]`` sets the outcome. Its error may quote text of any length
    from the destination.
    """
    if outcome.kind is OutcomeKind.DELIVERED and not _matching_exception(answer, preset):
        outcome = _apply_success_rule(answer, preset)
    if outcome.kind is not OutcomeKind.DELIVERED:
        return outcome
    return outcome._replace(external_id=_external_id(answer, preset))


def outcome_of_question(answer: Answer, preset: Preset, now: datetime) -> Outcome:
    """Return the outcome of an answer before the success rule is applied. For a question, such as a look-up,
    `DELIVERED` means that it was answered.

    Entries of ``[[classify]]`` apply first, then the table of `kind_of_status`. A Retry-After that is a date counts
    from now.
    """
    retry_after = parse_retry_after(answer.retry_after, now)
    exception = _matching_exception(answer, preset)
    kind = kind_of_status(answer.status, retry_after=retry_after) if exception is None else exception.outcome
    if kind is OutcomeKind.DELIVERED:
        return Outcome(kind, answer.status)
    error = with_error_text(f"HTTP {answer.status}", answer, preset.answer.errors)
    remedy = f"; {exception.remedy}" if exception is not None and exception.remedy else ""
    # If the preset names an outcome, the answer is not ambiguous.
    in_doubt = exception is None and answer.status in IN_DOUBT
    return Outcome(kind, answer.status, error + remedy, retry_after, in_doubt=in_doubt)


def holds(condition: Condition, answer: Answer, fields: Fields) -> bool:
    """Return whether an answer meets a condition.

    Raises:
        ValueError: the answer was cut off, and the part that was read lacks the condition's text. For a condition with
            a path: the answer was cut off, is not valid JSON, or is nested too deeply.
    """
    if condition.text is not None:
        wanted = plain(fill_text(condition.text, fields))
        if wanted not in answer.text and not answer.whole:
            raise ValueError("the response is too long")
        return wanted in answer.text
    found = find(answer.json, condition.path or "", fields)
    if condition.contains is not None:
        wanted = plain(fill_text(condition.contains, fields))
        return any(
            wanted in map(plain, value) if isinstance(value, list) else wanted in plain(value) for value in found
        )
    if condition.equals is not None:
        return bool(found) and all(value == condition.equals for value in found)
    return any(found)


def value_at(answer: Answer, path: str) -> str | int | None:
    """Return the string or integer at a path of a 2xx answer's JSON; None if there is no such value."""
    try:
        found = find(answer.json, path) if answer.status < 300 else []  # noqa: PLR2004  2xx means success
    except ValueError:
        return None
    return next((value for value in found if isinstance(value, str | int) and not isinstance(value, bool)), None)


def _matching_exception(answer: Answer, preset: Preset) -> Reclassification | None:
    location = answer.headers.get("Location", "")
    return next((rule for rule in preset.classify if rule.applies(answer.status, answer.text, location)), None)


def _external_id(answer: Answer, preset: Preset) -> str | None:
    rule = preset.answer
    found = None if rule.id is None else value_at(answer, rule.id)
    if found is None and rule.id_header is not None:
        found = answer.headers.get(rule.id_header, "").rstrip("/").rpartition("/")[2]
    return None if found is None else one_line(str(found))[:EXTERNAL_ID_LENGTH] or None


def _apply_success_rule(answer: Answer, preset: Preset) -> Outcome:
    try:
        if not preset.has_success_rule and (answer.whole or not answer.media_type.endswith("json")):
            _ = answer.json  # raises if the answer is neither empty nor JSON
        if _succeeded(answer, preset.success):
            return Outcome(OutcomeKind.DELIVERED, answer.status)
    except ValueError:
        if not preset.has_success_rule:
            kind = answer.media_type if MEDIA_TYPE.fullmatch(answer.media_type) else "of no known type"
            error = f"HTTP {answer.status} {kind}, and the preset has no [success] that can judge it"
            return Outcome(OutcomeKind.UNKNOWN, answer.status, error, unread=True)
        problem = "can't be read as JSON" if answer.whole else "is too long to be read"
        return Outcome(OutcomeKind.UNKNOWN, answer.status, f"HTTP {answer.status}, but the response {problem}")
    # The refusal may concern all messages, for example because a licence has lapsed, or a proxy answers with a page.
    error = with_error_text("refused", answer, preset.answer.errors)
    return Outcome(OutcomeKind.REFUSED, answer.status, error, in_doubt=True)


def _succeeded(answer: Answer, rule: SuccessRule) -> bool:
    if rule.status and answer.status not in rule.status:
        return False
    if rule.content_type is not None and answer.media_type != rule.content_type.lower():
        return False
    if rule.text is not None and rule.text not in answer.text:
        if not answer.whole:
            raise ValueError("the response is too long")
        return False
    if rule.field is not None:
        found = find(answer.json, rule.field)
        if found[0] != rule.equals if found else rule.required:
            return False
    return (
        (rule.present is None or bool(find(answer.json, rule.present)))
        and (rule.not_empty is None or any(find(answer.json, rule.not_empty)))
        and (rule.absent is None or not find(answer.json, rule.absent))
    )


def with_error_text(start: str, answer: Answer, paths: Collection[str]) -> str:
    """Append the answer's own error text, from the first path that has one."""
    try:
        content = answer.json
        found = next((values for path in paths if any(values := find(content, path))), [])
        parts = [part for value in found for part in (value if isinstance(value, list) else [value])]
        words = "; ".join(part if isinstance(part, str) else json.dumps(part) for part in parts if part)
    except (ValueError, RecursionError):
        return start
    return f"{start}: {words}" if words else start
