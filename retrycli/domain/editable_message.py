"""A message's subject and body as one text, as a person edits them.

The text's first line is ``Subject: …``, the next one is blank, and the body follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher, unified_diff

from retrycli.domain.errors import NotEdited
from retrycli.domain.sanitize import encodable

HEAD = "Subject:"
LABELS = {"subject": f"{HEAD} ", "recipient_email": "Recipient: "}


@dataclass(frozen=True, slots=True)
class EditableMessage:
    """What an operator may change of a message; no recipient: the application's table has none, or the row."""

    subject: str
    body: str
    recipient: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, object]) -> EditableMessage:
        """A row as it is offered for editing: what is no text is left out, and what is no UTF-8 is replaced."""
        recipient = row.get("recipient_email")
        subject = " ".join(_text(row["subject"]).splitlines()).strip()
        return cls(subject, _text(row["body"]), None if recipient is None else _text(recipient))

    def as_text(self) -> str:
        """Subject and body as one text, with a line break at its end, as editors want it."""
        end = "" if not self.body or self.body.endswith("\n") else "\n"
        return f"{HEAD} {self.subject}\n\n{self.body}{end}"

    def with_text(self, text: str) -> EditableMessage:
        """This one with the subject and the body of an edited text.

        Raises:
            NotEdited: the text is empty, or does not begin with its subject.
        """
        if not text.strip():
            raise NotEdited("the text is empty; nothing was written")
        first, _, rest = text.partition("\n")
        blank, _, body = rest.partition("\n")
        if not first.startswith(HEAD) or blank.strip():
            raise NotEdited(
                f"the text does not begin with a line `{HEAD} …` and a blank one, so nobody knows its subject; "
                "nothing was written"
            )
        if body.endswith("\n") and not self.body.endswith("\n"):  # the editor's, see `as_text`
            body = body[:-1] if self.body.endswith("\r") else body[:-1].removesuffix("\r")
        return EditableMessage(first.removeprefix(HEAD).strip(), body, self.recipient)

    def check(self, before: EditableMessage) -> None:
        """Look whether this can be sent in place of what was there.

        Raises:
            NotEdited: the subject or the recipient has a line break in it, something is no text, or body or recipient
                are empty.
        """
        recipient = self.recipient or ""
        for name, text in (("subject", self.subject), ("recipient", recipient)):
            if text.splitlines() not in ([], [text]):
                raise NotEdited(f"the {name} has a line break in it; write it in one line. Nothing was written")
        for name, text in (("subject", self.subject), ("body", self.body), ("recipient", recipient)):
            if "\0" in text or not encodable(text):
                raise NotEdited(f"the {name} has something in it that is no text. Nothing was written")
        if self.recipient is not None and not recipient.strip() and before.recipient != self.recipient:
            raise NotEdited("the recipient is empty. Nothing was written")
        if self.body != before.body and not self.body.strip():
            raise NotEdited("the body is empty; reject a message that is not to be sent. Nothing was written")

    def changes(self, row: Mapping[str, object]) -> dict[str, str]:
        """What a row is to get: its columns that differ from this, with their new values."""
        wanted = {"subject": self.subject, "body": self.body, "recipient_email": self.recipient}
        return {
            name: value
            for name, value in wanted.items()
            if name in row and value is not None and value != row[name] and (value or row[name] is not None)
        }


COMPARED = 250_000
"""How many pairs of lines are compared at most. Of lines that are much alike each pair may be."""


def difference(before: EditableMessage, after: EditableMessage) -> Iterator[str]:
    """A unified diff of two drafts, a line at a time and without line breaks."""
    yield from unified_diff(_lines(before), _lines(after), "before", "after", lineterm="")


def edit_in_lines(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    """Return what an edit changed, a line at a time: the lines that went and those that came, by column.

    Args:
        before: the values that it replaced, by column.
        after: the values that it wrote.
    """
    for name, new in after.items():
        label = LABELS.get(name, "")
        old = before.get(name)
        olds, news = (
            [] if value is None else [f"{label}{line}" for line in str(value).split("\n")] for value in (old, new)
        )
        if len(olds) * len(news) > COMPARED:
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


def _text(value: object) -> str:
    """A column's text, with what is no UTF-8 in it replaced: it could be neither edited nor written."""
    return value.encode(errors="surrogateescape").decode(errors="replace") if isinstance(value, str) else ""
