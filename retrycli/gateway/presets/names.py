"""Check the names in a preset's templates against the names that have a value at that point.

A name without a value would be sent as an empty string, and an empty string in a condition matches anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from retrycli.gateway.presets.model import (
    CREDENTIALS,
    KEY,
    OF_ATTACHMENTS,
    OURS,
    Auth,
    Condition,
    MessageRule,
    Preflight,
    Question,
)
from retrycli.gateway.presets.template import EACH, places

if TYPE_CHECKING:
    from retrycli.gateway.presets.loader import Preset

Names = frozenset[str]
NONE: Names = frozenset()
SESSION: Names = frozenset({"session"})
OF_A_FILE: Names = frozenset(f"{EACH}.{part}" for part in OF_ATTACHMENTS - {"token"})
REMEDIES = {
    "session": "comes from [auth.session], which is missing",
    "identity": "comes from identity in [auth], which is missing",
    f"{EACH}.token": "comes from [upload], which is missing",
}
"""Errors for a name whose value another part of the preset provides."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a preset that has templates."""

    where: str
    names: Names
    known: Names
    """The names defined by retrycli that have a value in this part."""
    has_row: bool = True
    """True if the columns of a message also have a value in this part."""

    @property
    def columns(self) -> Names:
        """Return the columns among its names."""
        own = {*OURS, EACH}
        return frozenset([name for name in self.names - self.known if name.partition(".")[0] not in own])

    @property
    def empty(self) -> list[str]:
        """Return the names without a value, sorted."""
        return sorted(self.names - self.known - (self.columns if self.has_row else NONE))


def check_names(preset: Preset, parts: Iterable[Part]) -> None:
    """Check that every name has a value where it is used.

    Raises:
        ValueError: names have no value; the error lists these names, and where they are used.
    """
    has_session = (preset.auth or Auth()).session is not None
    problems = []
    for part in parts:
        for name in part.empty:
            known = [*(f"{{{known}}}" for known in sorted(part.known)), *(["columns"] if part.has_row else [])]
            usual = f"has no value here (known: {', '.join(known) or 'none'})"
            said = usual if name == "session" and has_session else REMEDIES.get(name, usual)
            problems.append(f"{part.where}: {{{name}}} {said}")
    if problems:
        raise ValueError("; ".join(dict.fromkeys(problems)))


def parts_of(preset: Preset) -> Iterator[Part]:
    """Yield all parts with templates."""
    auth = preset.auth or Auth()
    identity = NONE if auth.identity is None else frozenset({"identity"})
    session = NONE if auth.session is None else SESSION
    token = NONE if preset.upload is None else frozenset({f"{EACH}.token"})
    always = frozenset({KEY}) | identity
    yield from _of_auth(auth)
    if preset.check is not None:
        yield Part("check", _names_in(preset.check.path, preset.check.query), identity, has_row=False)
    for message_type, rule in preset.messages.items():
        yield from _of_message(f"messages.{message_type}", rule, always, session, OF_A_FILE | token | {EACH})
    for question in preset.look_up:
        yield from _of_question("look_up", question, always | {"page"}, session)
    for name, preflight in preset.preflight.items():
        yield from _of_preflight(f"preflight.{name}", preflight, always, session)
    if preset.upload is not None:
        ahead = preset.upload
        yield Part("upload", _names_in(ahead.path, ahead.query, ahead.headers), always | OF_A_FILE)


def _of_auth(auth: Auth) -> Iterator[Part]:
    """Yield the parts of ``[auth]``. The session has a value only after a log-in."""
    before = CREDENTIALS - SESSION
    after = before if auth.session is None else CREDENTIALS
    yield Part("auth", _names_in(auth.headers, auth.basic or ()), after, has_row=False)
    yield Part("auth.identity", _names_in(auth.identity or ""), before, has_row=False)
    if auth.session is not None:
        yield Part("auth.session", _names_in(auth.session.path), NONE, has_row=False)
        yield Part("auth.session", _names_in(auth.session.headers, auth.session.body), before, has_row=False)


def _of_message(where: str, rule: MessageRule, always: Names, session: Names, entry: Names) -> Iterator[Part]:
    """Yield the parts of a message rule. No condition may use the marker, because a message may be sent without it."""
    marker = NONE if rule.marker is None else frozenset({"marker"})
    sent = always | marker
    yield Part(where, _names_in(rule.path, rule.query, rule.headers) | {*rule.required}, sent | session)
    yield Part(where, _names_in(rule.body), sent | session | entry)
    if rule.marker is not None:
        yield Part(f"{where}.marker", _names_in(rule.marker.text), always)
    if rule.confirmed is not None:
        yield Part(f"{where}.confirmed", _names_in(rule.confirmed), always)
    if rule.verify is not None:
        yield from _of_question(f"{where}.verify", rule.verify, always | {"external_id", "page"}, session)


def _of_question(where: str, question: Question, known: Names, session: Names) -> Iterator[Part]:
    yield Part(where, _names_in(question.path, question.query), known | session)
    yield Part(where, _names_in(question.holds, question.more), known)


def _of_preflight(where: str, preflight: Preflight, always: Names, session: Names) -> Iterator[Part]:
    known = always
    for step in preflight.steps:
        entry = NONE if step.each is None else frozenset({step.each})
        yield Part(where, entry, known)
        yield Part(where, _names_in(step.path, step.query), known | entry | session)
        yield Part(where, _names_in(step.enough, step.holds, list(step.take.values())), known | entry)
        known |= step.take.keys()


def _names_in(*trees: object) -> Names:
    texts = (tree.templates if isinstance(tree, Condition) else tree for tree in trees)
    return frozenset([place.name for text in texts for place in places(text)])
