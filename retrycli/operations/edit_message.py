"""Edit one message: read it, as fields or as one text for an editor, and write the edit if nobody has changed it since.

The text for an editor begins with ``Subject: …``, the next line is blank, and the body follows.
"""

import re
from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher, unified_diff

from retrycli.config.settings import Settings
from retrycli.domain.errors import NotEdited
from retrycli.domain.identity import TEXT_COLUMNS, digest_of
from retrycli.domain.listing import MessageDetails
from retrycli.domain.message import ticket_text
from retrycli.domain.operator_action import OperatorAction, stale
from retrycli.domain.sanitize import storable
from retrycli.engine import manual_attempt
from retrycli.operations.ids import resolve_one
from retrycli.operations.recovery import open_to_act
from retrycli.operations.wiring import DEFAULT_RUNTIME, Runtime, clock, make_dependencies, pass_rules
from retrycli.store.history import message_details
from retrycli.store.operator_actions import Acts
from retrycli.system.process import login_name

HEAD = "Subject:"
LABELS = {"subject": f"{HEAD} ", "recipient_email": "Recipient: "}


@dataclass(frozen=True, slots=True)
class EditableMessage:
    """The fields that an operator may edit. The recipient is None if the table or the row lacks it."""

    subject: str
    body: str
    recipient: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, object]) -> "EditableMessage":
        """Return a row's fields: the subject on one line, values other than text empty, invalid UTF-8 replaced."""
        recipient = row.get("recipient_email")
        subject = " ".join(_column_text(row["subject"]).splitlines()).strip()
        return cls(subject, _column_text(row["body"]), None if recipient is None else _column_text(recipient))

    def having(self, *, subject: str | None, body: str | None, recipient: str | None) -> "EditableMessage":
        """Return a copy with other fields; None keeps a field."""
        return EditableMessage(
            self.subject if subject is None else subject,
            self.body if body is None else body,
            self.recipient if recipient is None else recipient,
        )

    def as_text(self) -> str:
        """Return subject and body as one text that ends with a line break, as editors expect."""
        end = "" if not self.body or self.body.endswith("\n") else "\n"
        return f"{HEAD} {self.subject}\n\n{self.body}{end}"

    def with_text(self, text: str) -> "EditableMessage":
        """Return a copy with the subject and the body from an edited text.

        Raises:
            NotEdited: the text is empty, or does not begin with a subject line and a blank line.
        """
        if not text.strip():
            raise NotEdited("the text must not be empty; nothing was written")
        first, _, rest = text.partition("\n")
        blank, _, body = rest.partition("\n")
        if not first.startswith(HEAD) or blank.strip():
            raise NotEdited(f"the text must begin with a line `{HEAD} …` and a blank line; nothing was written")
        if body.endswith("\n") and not self.body.endswith("\n"):  # added by `as_text` or the editor
            body = body[:-1] if self.body.endswith("\r") else body[:-1].removesuffix("\r")
        return EditableMessage(first.removeprefix(HEAD).strip(), body, self.recipient)

    def check(self, before: "EditableMessage") -> None:
        """Check that these fields can replace the fields before the edit.

        Raises:
            NotEdited: the subject or the recipient has a line break, a field is not valid text, or the edit makes the
                body or the recipient empty.
        """
        recipient = self.recipient or ""
        for name, text in (("subject", self.subject), ("recipient", recipient)):
            if text.splitlines() not in ([], [text]):
                raise NotEdited(f"the {name} must not contain a line break; write it on one line. Nothing was written")
        for name, text in (("subject", self.subject), ("body", self.body), ("recipient", recipient)):
            if not storable(text):
                raise NotEdited(f"the {name} contains an invalid character; remove it. Nothing was written")
        if self.recipient is not None and not recipient.strip() and before.recipient != self.recipient:
            raise NotEdited("the recipient must not be empty. Nothing was written")
        if self.body != before.body and not self.body.strip():
            raise NotEdited("the body must not be empty; to stop the message, reject it. Nothing was written")

    def changes(self, row: Mapping[str, object]) -> dict[str, str]:
        """Return the columns of a row that differ from these fields, with their new values."""
        wanted = {"subject": self.subject, "body": self.body, "recipient_email": self.recipient}
        return {
            name: value
            for name, value in wanted.items()
            if name in row and value is not None and value != row[name] and (value or row[name] is not None)
        }


def concerns_editable_field(problem: object) -> bool:
    """Return whether the last error of an invalid message names a field that `edit` can change."""
    return str(problem).removeprefix("Can't be sent: ").startswith(("subject", "body", "recipient_email"))


# Maximum number of pairs of changed lines to compare. With lines that repeat, `SequenceMatcher` compares each pair many
# times.
MAX_LINE_PAIRS = 2_500


def difference(before: EditableMessage, after: EditableMessage) -> Iterator[str]:
    """Yield a unified diff of two messages, line by line and without line breaks."""
    yield from unified_diff(_lines(before), _lines(after), "before", "after", lineterm="")


def edit_in_lines(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    """Yield the changes of an edit line by line and column by column; removed lines come before added ones. Lines are
    made as they are taken.
    """
    for name, value in after.items():
        label = LABELS.get(name, "")
        old, new = _changed(before.get(name), value)
        if old.count("\n") * new.count("\n") > MAX_LINE_PAIRS:
            yield from (f"-{label}{line}" for line in _each_line(old))
            yield from (f"+{label}{line}" for line in _each_line(new))
            continue
        olds, news = [*_each_line(old)], [*_each_line(new)]
        for tag, start, end, first, last in SequenceMatcher(None, olds, news, autojunk=False).get_opcodes():
            if tag != "equal":
                yield from (f"-{label}{line}" for line in olds[start:end])
                yield from (f"+{label}{line}" for line in news[first:last])


def _changed(*values: object) -> list[str]:
    """Return two texts, without the lines that are equal at the beginning and at the end. A line break is before and
    after each line. A list of short lines takes 30 times the memory of the text.
    """
    old, new = ("\n" if value is None else f"\n{value}\n" for value in values)
    start = old.rindex("\n", 0, _equal(old, new))
    texts = old, new = old[start:], new[start:]
    tail = _equal(old[::-1], new[::-1])
    return [text[: text.index("\n", len(text) - tail) + 1] for text in texts]


def _equal(one: str, other: str) -> int:
    """Return how many characters are equal at the beginning. To compare them one by one takes 100 times as long."""
    lengths = range(1, min(len(one), len(other)) + 1)
    return bisect(lengths, 0, key=lambda length: one[:length] != other[:length])


def _each_line(text: str) -> Iterator[str]:
    return (found[1] for found in re.finditer("(.*)\n", text[1:]))


def _lines(draft: EditableMessage) -> list[str]:
    recipient = [] if draft.recipient is None else [f"Recipient: {draft.recipient}"]
    return [*recipient, f"{HEAD} {draft.subject}", "", *draft.body.split("\n")]


def _column_text(value: object) -> str:
    """Return a column's text. Replace invalid UTF-8, because it can be neither edited nor written."""
    return value.encode(errors="surrogateescape").decode(errors="replace") if isinstance(value, str) else ""


LINE_END = re.compile(r"(\r\n|\r|\n)")
UNSEEN = str.maketrans({"\0": "\ufffd"})  # a browser replaces NUL


def restored(before: str, sent: str) -> str:
    """Return an edited text with the line ends of the text before the edit.

    A browser's form sends every line end as CRLF, and an HTML page can't contain NUL. Otherwise every edit would change
    every line of a text with other line ends.

    Lines before the first changed line and after the last one are returned as they were. The other lines end like most
    lines of the text before the edit.
    """
    olds, old_ends = _split(before)
    news, _ = _split(sent)
    usual = Counter(old_ends).most_common(1)[0][0] if old_ends else "\n"
    head, tail = _unchanged([line.translate(UNSEEN) for line in olds], news)
    last = len(news) - 1
    pieces: list[str] = []
    for number, line in enumerate(news):
        is_tail = number > last - tail
        old = number if number < head else number - last + len(olds) - 1 if is_tail else None
        pieces.append(line if old is None else olds[old])
        if number < last:
            end = usual if old is None or old >= len(old_ends) else old_ends[old]
            # After CR and an empty line, LF alone would form one line end with the CR.
            pieces.append("\r\n" if end == "\n" and pieces[-2:] == ["\r", ""] else end)
    return "".join(pieces)


def _split(text: str) -> tuple[list[str], list[str]]:
    """Return the lines of a text, and the ends between them."""
    parts = LINE_END.split(text)
    return parts[::2], parts[1::2]


def _unchanged(olds: list[str], news: list[str]) -> tuple[int, int]:
    """Return how many lines are equal at the beginning, and how many of the others at the end."""
    most = min(len(olds), len(news))
    head = next((number for number in range(most) if olds[number] != news[number]), most)
    rest = most - head
    tail = next((number for number in range(rest) if olds[-1 - number] != news[-1 - number]), rest)
    return head, tail


@dataclass(frozen=True, slots=True)
class Edit:
    """The result of an edit.

    Attributes:
        message_id: the message's id.
        changed: the columns that were written; empty if the edit changed nothing.
        digest: the digest of the message's text after the edit.
    """

    message_id: int
    changed: list[str]
    digest: str


def edit(
    settings: Settings,
    message_id: int | str,
    *,
    subject: str | None = None,
    body: str | None = None,
    recipient: str | None = None,
    digest: str | None = None,
    by: str | None = None,
    runtime: Runtime = DEFAULT_RUNTIME,
) -> Edit:
    """Change the subject, body or recipient of a failed message.

    If the text changes, the message gets a new delivery key. It keeps its state.

    Args:
        settings: from `retrycli.load_settings`, or created directly.
        message_id: the message's id in the application's table.
        subject: the new subject; None keeps it.
        body: the new body, written as it is; None keeps it.
        recipient: the new recipient; None keeps it.
        digest: the digest of the text that the edit is based on. Nothing is written if the text has changed since.
        by: the operator, for the history; by default the current user's login name.
        runtime: the clock.

    Raises:
        StaleEdit: the message's text is not the one that the digest names.
        NotEdited: the edited text can't be sent, or the table has no column for the recipient.
        NoSuchMessage: the application's table has no such row.
        NotActionable: the message is not failed, is being sent, or its row can't store the edit.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    read, before = read_draft(settings, message_id, digest=digest, runtime=runtime)
    after = before.having(subject=subject, body=body, recipient=recipient)
    return write_draft(settings, read, after, by=by, runtime=runtime)


def read_draft(
    settings: Settings, message_id: int | str, *, digest: str | None = None, runtime: Runtime = DEFAULT_RUNTIME
) -> tuple[MessageDetails, EditableMessage]:
    """Return a message, and its editable part. The text must have the given digest, if any.

    Raises:
        StaleEdit: the text has another digest.
        NoSuchMessage: the application's table has no such row.
        NotActionable: the message is not failed, or is being sent.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_to_act(settings, runtime) as database:
        number = resolve_one(database, message_id)
        Acts(database).check_editable(number, clock(database, runtime.now)())
        found = message_details(database, number, body=True)
    if digest is not None and digest != digest_of(found.row):
        raise stale(number)
    return found, EditableMessage.of(found.row)


def write_draft(
    settings: Settings,
    read: MessageDetails,
    wanted: EditableMessage,
    *,
    by: str | None = None,
    runtime: Runtime = DEFAULT_RUNTIME,
) -> Edit:
    """Write an edited message, which `read_draft` returned. It gets a new delivery key and keeps its state.

    Only ``subject``, ``body`` and, if the table has it, ``recipient_email`` are written, and only if they changed.

    Raises:
        NotEdited: the edited text can't be sent, or the table has no column for the recipient.
        NoSuchMessage: the row is gone.
        StaleEdit: the text, its recipients or its attachments have changed since the message was read.
        NotActionable: the message is not failed, is being sent, or its row can't store the edit.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    row, before = read.row, EditableMessage.of(read.row)
    wanted.check(before)
    if wanted.recipient is not None and "recipient_email" not in row:
        raise NotEdited(f"{settings.database.table} has no column recipient_email; omit the recipient")
    message_id: int = row["id"]
    changes = {} if wanted == before else wanted.changes(row)
    if not changes:
        return Edit(message_id, [], digest_of(row))
    with open_to_act(settings, runtime) as database:
        at, acts = clock(database, runtime.now)(), Acts(database)
        if not acts.check_editable(message_id, at):
            manual_attempt.enrol_message(
                make_dependencies(settings, database, runtime), pass_rules(settings), message_id, at
            )
        replaced, ticket = {name: row[name] for name in changes}, ticket_text(row["ticket_id"])
        act = OperatorAction.edited(replaced, changes, ticket=ticket, by=by or login_name(), at=at)
        acts.edit(message_id, act, read={name: row[name] for name in TEXT_COLUMNS if name in row}, changes=changes)
    return Edit(message_id, list(changes), digest_of({**row, **changes}))
