"""The first page: the counts, what needs an operator, and the failed messages."""

from starlette.responses import Response

from retrycli import operations
from retrycli.domain.bulk import BulkAction
from retrycli.domain.cursor import SORTS
from retrycli.domain.listing import ListedState
from retrycli.domain.message import EscalationReason, MessageType
from retrycli.domain.user import Right
from retrycli.web.console.context import Console
from retrycli.web.console.filters import ListQuery
from retrycli.web.console.outdated import is_outdated
from retrycli.web.console.routes import page
from retrycli.web.console.visit import Visit

ROWS = 50  # maximum number of messages on a page
MOST_CAUSES = 5  # maximum number of causes on the first page, the largest first
ACTIONS = {
    BulkAction.REQUEUE: "requeue",
    BulkAction.RETRY: "retry now",
    BulkAction.REJECT: "reject",
    BulkAction.ACKNOWLEDGE: "acknowledge",
    BulkAction.MARK_SENT: "mark as sent",
}
SORTED_BY = {"next": "next attempt", "id": "id", "tries": "most retries", "age": "oldest"}


class OverviewPages:
    """The first page."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @page("GET", "/", Right.READ, ListQuery)
    def overview(self, visit: Visit, query: ListQuery) -> Response:
        """Show the counts, the causes of escalations, and a page of the failed messages."""
        settings, now = self._console.settings, self._console.now()
        found = operations.listing.page(settings, query.wanted(now), sort=query.sort, after=query.after, limit=ROWS)
        given = query.given()
        is_first = not given and query.after is None
        groups = operations.listing.escalations(settings) if is_first else []

        return self._console.show(
            visit,
            "overview.html",
            messages=found.messages,
            next_page=None if found.next is None else visit.to(**given, sort=query.sort, after=found.next),
            is_first=is_first,
            is_later=query.after is not None,
            given=given,
            sort=query.sort,
            sorts={sort: SORTED_BY[sort] for sort in SORTS},
            groups=groups[:MOST_CAUSES],
            more_groups=max(len(groups) - MOST_CAUSES, 0),
            states=[*ListedState],
            types=[*MessageType],
            reasons=[*EscalationReason],
            actions=ACTIONS,
            policies=settings.policies,
            expiry=lambda message: operations.expiry.in_words(message, settings.policies, now),
            is_outdated=lambda message: is_outdated(
                message.state, message.last_error, message.retry_count, message.max_retries(settings.policies)
            ),
            result_of_pass=operations.words.result_of_pass,
        )
