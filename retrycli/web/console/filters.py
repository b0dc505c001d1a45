"""The filter of a list of failed messages, as a page's address contains it."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field

from retrycli.domain.cursor import Sort
from retrycli.domain.duration import duration
from retrycli.domain.listing import LONGEST_VALUE, Filter, ListedState
from retrycli.domain.message import EscalationReason, MessageType
from retrycli.web.console.forms import Form
from retrycli.web.inputs import Line


def _period(text: str) -> str:
    duration(text)
    return text


Words = Annotated[Line, Field(max_length=LONGEST_VALUE)]
Period = Annotated[Line, AfterValidator(_period)]


class MessageFilter(Form):
    """Conditions, all of which a message must meet. The names are those of the HTTP API."""

    state: ListedState | None = None
    message_type: MessageType | None = Field(None, alias="type")
    ticket: Words | None = None
    error: Words | None = None
    reason: EscalationReason | None = None
    fingerprint: Words | None = None
    older_than: Period | None = None

    def wanted(self, now: datetime) -> Filter:
        """Return the filter for the operations."""
        return Filter(
            state=self.state,
            message_type=self.message_type,
            ticket=self.ticket,
            error=self.error,
            reason=self.reason,
            fingerprint=self.fingerprint,
            failed_before=self.failed_by(now),
        )

    def failed_by(self, now: datetime) -> datetime | None:
        """Return the time before which a message must have failed."""
        return None if self.older_than is None else now - duration(self.older_than)

    def given(self) -> dict[str, str]:
        """Return the fields that are given, for the address of a page and for hidden fields of a form."""
        names = {field.alias or name: getattr(self, name) for name, field in MessageFilter.model_fields.items()}
        return {name: str(value) for name, value in names.items() if value is not None}


class ListQuery(MessageFilter):
    """A filter, the order of the list, and the place at which its page begins."""

    sort: Sort = "next"
    after: Line | None = None
