"""Distinguish messages with the same id, and different texts of one message.

An id does not identify a message: SQLite may give the id of a deleted row to a new row, and applications rewrite their
rows. So before retrycli sends a message and before it writes a result, it compares the ticket and the first two of
these three values, which it stores for each row:

- its **birth**: when the row was created, or its ticket if the row has no creation time;
- the **digest** of its text: the message type, subject, body, attachments and recipients;
- its **delivery key**, which identifies one text of one message, and changes once a delivery of that text is recorded.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from retrycli.domain.errors import InvalidMessage
from retrycli.domain.message import EarlierText, Place, utc_time
from retrycli.domain.outcome import MAY_BE_STORED, OUTAGE, OutcomeKind, may_have_arrived

BY_TICKET = "ticket "  # prefix of the birth of a row without a creation time
# Birth of a recorded delivery whose row has no creation time and is not marked as sent. The row may have moved to any
# other ticket since the delivery.
OF_ANY_TICKET = BY_TICKET
# Birth of a message whose row had another birth at `REBIRTHS` passes in a row, but the same text. Until its text
# changes, its births are not compared again.
UNSTABLE = "unstable"
REBIRTHS = 3
# Prefix of a digest. Digests of different versions can't be compared.
VERSION = "1"
# The columns of the application's table that make up a message's text.
TEXT_COLUMNS = ("message_type", "subject", "body", "attachments", "recipient_email", "cc_emails", "bcc_emails")


def birth_of(text: str) -> str:
    """Return a birth in its canonical form, independent of how the database formats times. An invalid time
    remains unchanged.

    Args:
        text: ``created_at`` as the database writes it, or `BY_TICKET` and the ticket.
    """
    if text.startswith(BY_TICKET):
        return text
    try:
        time = utc_time("created_at", text)
    except InvalidMessage:
        time = None
    return text if time is None else time.isoformat(timespec="microseconds")


def digest_of(row: Mapping[str, object]) -> str:
    """Return the digest of a row's text; columns that the table does not have count as null.

    The digest has one half for the content and one for the recipients, so that a change of only the recipients can be
    detected.
    """
    get = row.get
    content = (get("message_type"), get("subject"), get("body"), _list_text(get("attachments")))
    recipients = (get("recipient_email"), _list_text(get("cc_emails")), _list_text(get("bcc_emails")))
    return f"{VERSION}:{_hash(content)}:{_hash(recipients)}"


def same_content(one: str, other: str) -> bool:
    """Return whether two digests have the same content half; their recipients may differ."""
    return one.rpartition(":")[0] == other.rpartition(":")[0]


def _hash(values: Iterable[object]) -> str:
    """Hash values with their types and lengths, so that different sequences never produce the same hash input."""
    return hashlib.sha256("".join(map(_encode_value, values)).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _encode_value(value: object) -> str:
    if isinstance(value, str):
        return f"t{len(value)}:{value};"
    if value is None:
        return "n;"
    kind, text = ("b", value.hex()) if isinstance(value, bytes) else ("t", str(value))
    return f"{kind}{len(text)}:{text};"


def _list_text(value: object) -> object:
    if not value or value == "[]":
        return "[]"
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str) if value else "[]"
    except RecursionError:
        return "nested too deeply"


class Difference(StrEnum):
    """The possible changes to a row since its message was read."""

    NONE = "none"
    EDITED = "edited"  # the row holds another text of the same message
    MOVED = "moved"  # the row belongs to another ticket, and holds the same text
    ANOTHER = "another"  # the row belongs to another message


class MessageIdentity(NamedTuple):
    """The values that identify a message and its text; see the module's docstring."""

    birth: str
    digest: str
    ticket: str

    def difference(self, now: "MessageIdentity") -> Difference:
        """Return the difference between this identity and ``now``, the current identity of the row."""
        if is_same_birth(self.birth, now.birth, before=self.ticket, ticket=now.ticket):
            if self.digest != now.digest:
                return Difference.EDITED
            return Difference.NONE if self.ticket == now.ticket else Difference.MOVED
        moved = self.digest == now.digest and is_of_one_message(self.birth, now.birth)
        return Difference.MOVED if moved else Difference.ANOTHER


# -- what the history says about a text -----------------------------------------------------------------------


class PastAttempt(NamedTuple):
    """One attempt in the history."""

    number: int
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    status_code: int | None
    by_pass: bool
    birth: str | None = None  # `OF_ANY_TICKET` for a delivery that was not written to a row without a creation time
    digest: str | None = None
    delivery_key: str | None = None
    deliveries: int | None = None  # number of recorded deliveries of the same text before this attempt
    ticket: str | None = None
    destination: str | None = None
    preset: str | None = None
    delivered_to: frozenset[str] = frozenset()
    probe: bool | None = None

    @property
    def delivered(self) -> bool:
        """Return whether the attempt is recorded as delivered."""
        return self.outcome == OutcomeKind.DELIVERED

    @property
    def unsettled(self) -> bool:
        """Return whether it is still uncertain if the attempt delivered the message."""
        return self.outcome is None or may_have_arrived(self.outcome, self.status_code)

    @property
    def wants_look_up(self) -> bool:
        """Return whether a look-up, if there is one, must come before another attempt: the destination may have stored
        the message, even though it refused it.
        """
        return self.unsettled or (not self.delivered and self.status_code in MAY_BE_STORED)

    def reached_with_another(self, digest: str) -> bool:
        """Return whether the attempt reached some recipients, with other content than that of a digest."""
        return bool(self.delivered_to) and self.digest is not None and not same_content(self.digest, digest)

    def is_of(self, birth: str) -> bool:
        """Return whether the attempt belongs, or may belong, to the message with a given birth."""
        return self.birth == birth or (self.birth == OF_ANY_TICKET and birth.startswith(BY_TICKET))


# Outcomes of attempts that did not reach the destination, or whose request the destination did not examine.
NO_REQUEST = frozenset({OutcomeKind.UNREACHABLE, OutcomeKind.THROTTLED, OutcomeKind.UNAUTHORIZED, OutcomeKind.INVALID})

CHARGED = OUTAGE | {OutcomeKind.REFUSED}  # outcomes that use up a retry, unless the destination is down


class History(NamedTuple):
    """The attempts at messages with one id, oldest first.

    ``requeued_after`` is the number of the last attempt before the last requeue; 0 if there was no requeue. By the
    requeue, the operator lets passes repeat the text that the message then had, in the ticket that it then had: what
    the attempts up to ``allowed_up_to`` have sent.
    """

    attempts: Sequence[PastAttempt] = ()
    requeued_after: int = 0
    requeued_digest: str | None = None  # None if the text was not known
    requeued_ticket: str | None = None
    allowed_up_to: int = 0

    def of(self, birth: str, ticket: str, key: str | None) -> "History":
        """Return the history with the birth that the message of a ticket has now, in all attempts at the message: those
        with the delivery ``key`` that it had until now, and those whose birth counts as this one (`is_same_birth`).
        """

        def is_its(attempt: PastAttempt) -> bool:
            if attempt.birth is None or (attempt.birth == OF_ANY_TICKET and birth.startswith(BY_TICKET)):
                return False  # the comparison of its birth needs no other value
            is_same = is_same_birth(attempt.birth, birth, before=attempt.ticket, ticket=ticket)
            return is_same or attempt.delivery_key == key

        return self._replace(
            attempts=[attempt._replace(birth=birth) if is_its(attempt) else attempt for attempt in self.attempts]
        )

    def since_requeue(self, digest: str, ticket: str) -> "History":
        """Return the history for the text and ticket that the message has now. If they have changed since the last
        requeue, nothing may be repeated.
        """
        allows = self.requeued_digest in {None, digest} and self.requeued_ticket in {None, ticket}
        return self._replace(allowed_up_to=self.requeued_after if allows else 0)

    def key_of(self, birth: str, digest: str) -> str | None:
        """Return the key of the newest attempt to deliver a text; None if no attempt is recorded."""
        return next(
            (
                attempt.delivery_key
                for attempt in reversed(self.attempts)
                if (attempt.birth, attempt.digest) == (birth, digest)
            ),
            None,
        )

    def deliveries(self, birth: str, digest: str) -> int:
        """Count the recorded deliveries of a text.

        Each record also stores the number of earlier deliveries, so pruned records still count.
        """
        return max((1 + (delivery.deliveries or 0) for delivery in self._deliveries(birth, digest)), default=0)

    def delivered_at(self, birth: str, digest: str) -> datetime | None:
        """Return when a text was last delivered, unless an operator has requeued the message since."""
        return max(
            (
                delivery.finished_at or delivery.started_at
                for delivery in self._deliveries(birth, digest)
                if delivery.number > self.allowed_up_to and not self._is_superseded(delivery)
            ),
            default=None,
        )

    def delivered_to(self, birth: str, digest: str, *, after: int = 0) -> frozenset[str]:
        """Return the recipients that attempts after a number have reached, even if the row now has others."""
        return frozenset().union(
            *(
                attempt.delivered_to
                for attempt in self.attempts
                if attempt.number > after and attempt.is_of(birth)
                if attempt.digest and same_content(attempt.digest, digest)
            )
        )

    def unknowns(self, key: str) -> int:
        """Count the attempts since the last requeue that had this key and an unknown outcome."""
        return sum(attempt.outcome == OutcomeKind.UNKNOWN for attempt in self.attempts if self._is_under(attempt, key))

    def other_unknowns(self, birth: str, digest: str) -> int:
        """Count the other texts of this message, since its last delivery or requeue, whose last attempt has an unknown
        outcome. There are many of them if the application renders the text anew after each failure.
        """
        last = {attempt.digest: attempt for attempt in self._current(birth)}
        return sum(attempt.outcome == OutcomeKind.UNKNOWN for tried, attempt in last.items() if tried != digest)

    def charged(self, key: str) -> int:
        """Count the passes' attempts since the last requeue that had this key and used up a retry. Leave out probes."""
        own = (attempt for attempt in self.attempts if self._is_under(attempt, key))
        return sum(attempt.by_pass and not attempt.probe and attempt.outcome in CHARGED for attempt in own)

    def requests(self, birth: str) -> int:
        """Count the passes' attempts at this message, whatever its text, since its last delivery or requeue. Leave out
        outcomes in `NO_REQUEST`.
        """
        return sum(attempt.by_pass and attempt.outcome not in NO_REQUEST for attempt in self._current(birth))

    def unsettled_since(self, key: str) -> datetime | None:
        """Return the end of the newest attempt with this key after which a look-up comes first."""
        own = (attempt for attempt in reversed(self.attempts) if attempt.delivery_key == key and attempt.wants_look_up)
        return next((attempt.finished_at for attempt in own if attempt.finished_at is not None), None)

    def in_doubt(self, key: str) -> bool:
        """Return whether an attempt with this key, which has ended, may have delivered the message."""
        return any(
            attempt.unsettled and attempt.finished_at is not None
            for attempt in self.attempts
            if attempt.delivery_key == key
        )

    def unsettled_at(self, keys: Collection[str]) -> frozenset[Place]:
        """Return the places of the attempts with one of these keys that may have delivered the message."""
        return frozenset(
            Place(attempt.destination, attempt.preset)
            for attempt in self.attempts
            if attempt.delivery_key in keys and attempt.unsettled and attempt.destination is not None
        )

    def elsewhere(self, birth: str, digest: str, ticket: str) -> str | None:
        """Return another ticket under which this text may have arrived, unless an operator has requeued the message
        since.
        """
        moved = (
            attempt.ticket
            for attempt in self.attempts
            if attempt.digest == digest
            and attempt.ticket != ticket
            # If a delivered attempt has no `finished_at`, its row has not been marked as sent yet.
            and (attempt.unsettled or (attempt.delivered and attempt.finished_at is None))
            and attempt.number > self.allowed_up_to
            and is_of_one_message(attempt.birth, birth)
        )
        return next(moved, None)

    def may_be_with_others(self, birth: str, digest: str) -> bool:
        """Return whether the content of a text may have arrived with other recipients, unless an operator has requeued
        the message since.
        """
        return any(
            attempt.unsettled and not attempt.delivered_to and attempt.number > self.allowed_up_to
            for attempt in self.attempts
            if attempt.digest not in {None, digest} and attempt.is_of(birth) and same_content(attempt.digest, digest)
        )

    def earlier_texts(self, birth: str, digest: str, ticket: str) -> tuple[EarlierText, ...]:
        """Return the other texts of a message that may have arrived, also at only some recipients, since its last
        delivery, and since an operator last requeued the message. The same text in another ticket is one of them.
        """
        own = [attempt for attempt in self.attempts if attempt.is_of(birth)]
        since = max([self.allowed_up_to, *(attempt.number for attempt in own if attempt.delivered)])
        tried: dict[tuple[str, str | None], list[PastAttempt]] = {}
        for attempt in own:
            key, is_same = attempt.delivery_key, attempt.digest == digest and attempt.ticket in {None, ticket}
            if attempt.number <= since or key is None or attempt.digest is None or is_same:
                continue
            if attempt.wants_look_up or attempt.reached_with_another(digest):
                tried.setdefault((key, attempt.ticket), []).append(attempt)
        return tuple(
            EarlierText(
                *text,
                attempts[-1].finished_at or attempts[-1].started_at,
                unsettled=any(attempt.unsettled for attempt in attempts),
                partly=any(attempt.reached_with_another(digest) for attempt in attempts),
            )
            for text, attempts in tried.items()
        )

    def _deliveries(self, birth: str, digest: str) -> list[PastAttempt]:
        return [
            attempt
            for attempt in self.attempts
            if attempt.delivered and attempt.digest == digest and attempt.is_of(birth)
        ]

    def _is_superseded(self, delivery: PastAttempt) -> bool:
        """Return whether a later delivery of the text was written to the row, although this delivery was not.

        In that case the message is done, and a row with its id and another ticket belongs to another message.
        """
        return delivery.birth == OF_ANY_TICKET and any(
            attempt.delivered and attempt.number > delivery.number and attempt.digest == delivery.digest
            for attempt in self.attempts
            if attempt.birth != OF_ANY_TICKET
        )

    def _current(self, birth: str) -> list[PastAttempt]:
        own = [attempt for attempt in self.attempts if attempt.is_of(birth) and self._is_after_requeue(attempt)]
        since = max((attempt.number for attempt in own if attempt.delivered), default=0)
        return [attempt for attempt in own if attempt.number > since]

    def _is_under(self, attempt: PastAttempt, key: str) -> bool:
        return attempt.delivery_key == key and self._is_after_requeue(attempt)

    def _is_after_requeue(self, attempt: PastAttempt) -> bool:
        return attempt.number > self.requeued_after


def is_same_birth(known: str, now: str, *, before: str | None, ticket: str) -> bool:
    """Return whether two births, in their canonical forms, are those of one message: they are equal, or one is a
    creation time, the other a ticket, and the message still has the ticket that it had ``before``, or the known one was
    not stable.

    An application may add creation times to its table, or drop them.
    """
    return known in {now, UNSTABLE} or (are_of_two_kinds(known, now) and before == ticket)


def are_of_two_kinds(known: str, now: str) -> bool:
    """Return whether one of two births is a creation time, and the other a ticket."""
    return known.startswith(BY_TICKET) != now.startswith(BY_TICKET)


def is_of_one_message(one: str | None, other: str) -> bool:
    """Return whether two births may belong to one message: they are equal, or both are tickets.

    An application may move a message to another ticket.
    """
    return one == other or (one is not None and one.startswith(BY_TICKET) and other.startswith(BY_TICKET))
