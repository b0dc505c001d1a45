"""The pages that list messages: the first page with all failed ones, and that of the escalated ones by cause."""

from collections.abc import Mapping, Sequence

from starlette.responses import Response

from retrycli import operations
from retrycli.domain.cursor import SORTS
from retrycli.domain.listing import COLUMNS, FILTER_FIELDS, Filter, FilterField, View, columns_of
from retrycli.domain.message import EscalationReason, State
from retrycli.domain.user import Right
from retrycli.operations.bulk import ACTIONS
from retrycli.views.formatting import age
from retrycli.web.console.context import Pages, Visit, is_outdated
from retrycli.web.console.forms import ListQuery
from retrycli.web.console.routes import NoFields, page

ROWS = 50  # maximum number of messages on a page
MOST_CAUSES = 5  # maximum number of causes on the first page, the largest first
FIRST = ("error", "ticket", "state")  # filters beside the list; the others are below "More filters"
FILTER_FORM: Mapping[str, Sequence[FilterField]] = {
    "first": [FILTER_FIELDS[name] for name in FIRST],
    "more": [field for name, field in FILTER_FIELDS.items() if field.label and name not in FIRST],
    "hidden": [field for field in FILTER_FIELDS.values() if not field.label],
}
ALL_CAUSES = 100  # maximum number of causes on the page of escalations, the largest first
SINGLE_ROWS = 100  # maximum number of single messages on that page
BESIDE = ("expires_at", "recipient")  # in the cells of the next attempt and of the subject
SORTED_BY = {"next": "next attempt", "id": "id", "tries": "most retries", "age": "oldest"}
HINTS: Mapping[str, str] = {
    EscalationReason.EXHAUSTED: "When the cause is fixed, requeue them with a canary.",
    EscalationReason.PERMANENT: "When the cause is fixed, requeue them with a canary. Or edit them one by one.",
    EscalationReason.UNKNOWN: "They may have arrived. Look them up one by one, or check the tickets: mark them as sent "
    "if they arrived, requeue them if none did.",
    EscalationReason.INVALID: "Fix their rows in the application, then requeue them.",
    EscalationReason.EXPIRED: "Reject them if they are no longer wanted.",
    EscalationReason.CHANGED: "Check them one by one.",
}


class OverviewPages(Pages):
    """The first page, and the escalated messages by cause."""

    @page("GET", "/", Right.READ_TEXT, ListQuery)
    def overview(self, visit: Visit, query: ListQuery) -> Response:
        """Show the counts, the causes of escalations, and a page of the failed messages."""
        settings, now = self._settings, operations.wiring.utc_now()
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
            filters=FILTER_FORM,
            actions={action: entry.label for action, entry in ACTIONS.items()},
            columns=[(name, COLUMNS[name].heading) for name in columns_of(View.TABLE) if name not in BESIDE],
            expiry=lambda message: operations.expiry.in_words(message, now),
            age=lambda message: age(message.created_at, now),
            text=operations.words.listed_text,
            is_outdated=lambda message: is_outdated(
                message.state, message.last_error, message.retry_count, message.max_retries
            ),
            result_of_pass=operations.words.result_of_pass,
        )

    @page("GET", "/escalations", Right.READ_TEXT)
    def escalations(self, visit: Visit, _: NoFields) -> Response:
        """List the causes that several messages share, and then the other messages."""
        groups = operations.listing.escalations(self._settings)
        shared = [group for group in groups if group.count > 1 and group.fingerprint]
        others = Filter(state=State.ESCALATED, other_than=[group.fingerprint for group in shared if group.fingerprint])
        found = operations.listing.page(self._settings, others, sort="id", limit=SINGLE_ROWS)
        return self._console.show(
            visit,
            "escalations.html",
            groups=shared[:ALL_CAUSES],
            more_groups=max(len(shared) - ALL_CAUSES, 0),
            messages=found.messages,
            more_messages=found.next is not None,
            total=sum(group.count for group in groups),
            hint=lambda message: HINTS.get(EscalationReason.UNKNOWN if message.in_doubt else message.reason or "", ""),
        )
