"""The page of the escalated messages, grouped by cause."""

from collections.abc import Mapping

from starlette.responses import Response

from retrycli import operations
from retrycli.domain.listing import Filter
from retrycli.domain.message import EscalationReason, State
from retrycli.domain.user import Right
from retrycli.web.console.context import Console
from retrycli.web.console.routes import NoFields, page
from retrycli.web.console.visit import Visit

MOST_CAUSES = 100  # maximum number of causes on the page, the largest first
ROWS = 100  # maximum number of single messages on the page

HINTS: Mapping[str, str] = {
    EscalationReason.EXHAUSTED: "When the cause is fixed, requeue them with a canary.",
    EscalationReason.PERMANENT: "When the cause is fixed, requeue them with a canary. Or edit them one by one.",
    EscalationReason.UNKNOWN: "They may have arrived. Look them up one by one, or check the tickets: mark them as sent "
    "if they arrived, requeue them if none did.",
    EscalationReason.INVALID: "Fix their rows in the application, then requeue them.",
    EscalationReason.EXPIRED: "Reject them if they are no longer wanted.",
    EscalationReason.CHANGED: "Check them one by one.",
}


class EscalationPages:
    """The escalated messages by cause."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @page("GET", "/escalations", Right.READ)
    def escalations(self, visit: Visit, _: NoFields) -> Response:
        """List the causes that several messages share, and then the other messages."""
        settings = self._console.settings
        groups = operations.listing.escalations(settings)
        shared = [group for group in groups if group.count > 1 and group.fingerprint]
        others = Filter(state=State.ESCALATED, other_than=[group.fingerprint for group in shared if group.fingerprint])
        found = operations.listing.page(settings, others, sort="id", limit=ROWS)
        return self._console.show(
            visit,
            "escalations.html",
            groups=shared[:MOST_CAUSES],
            more_groups=max(len(shared) - MOST_CAUSES, 0),
            messages=found.messages,
            more_messages=found.next is not None,
            total=sum(group.count for group in groups),
            hints=HINTS,
        )
