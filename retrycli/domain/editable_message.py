"""Convert a message's subject and body to one text for an editor, and back.

The text's first line is ``Subject: …``, the next line is blank, and the body follows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher, unified_diff

from retrycli.domain.errors import NotEdited
from retrycli.domain.sanitize import storable

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
        """Return the editable fields of a row.

        The subject becomes one line. Values that are not text become empty, and invalid UTF-8 is replaced.
        """
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


# Maximum number of pairs of lines to compare. `SequenceMatcher` may compare every pair, so a larger diff is too slow.
MAX_LINE_PAIRS = 250_000


def difference(before: EditableMessage, after: EditableMessage) -> Iterator[str]:
    """Yield a unified diff of two messages, line by line and without line breaks."""
    yield from unified_diff(_lines(before), _lines(after), "before", "after", lineterm="")


def edit_in_lines(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    """Yield the changes of an edit line by line and column by column; removed lines come before added ones."""
    for name, new in after.items():
        label = LABELS.get(name, "")
        old = before.get(name)
        olds, news = (
            [] if value is None else [f"{label}{line}" for line in str(value).split("\n")] for value in (old, new)
        )
        if len(olds) * len(news) > MAX_LINE_PAIRS:
            yield from (f"-{line}" for line in olds)
            yield from (f"+{line}" for line in news)
            continue
        for tag, start, end, first, last in SequenceMatcher(None, olds, news, autojunk=False).get_opcodes():
            if tag != "equal":
                yield from (f"-{line}" for line in olds[start:end])
                yield from (f"+{line}" for line in news[first:last])


def _lines(draft: EditableMessage) -> list[str]:
    recipient = [] if draft.recipient is None else [f"Recipient: {draft.recipient}"]
    return [*recipient, f"{HEAD} {draft.subject}", "", *draft.body.split("\n")]


def _column_text(value: object) -> str:
    """Return a column's text. Replace invalid UTF-8, because it can be neither edited nor written."""
    return value.encode(errors="surrogateescape").decode(errors="replace") if isinstance(value, str) else ""
