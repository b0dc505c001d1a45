"""Find messages that must not move to another database yet, because only this one knows their attempts."""

from array import array

from sqlalchemy import Text, and_, case, cast, or_, select, true

from retrycli.domain.identity import OF_ANY_TICKET, birth_of, is_of_one_message
from retrycli.domain.message import MessageStatus, State
from retrycli.domain.outcome import OutcomeKind
from retrycli.domain.sanitize import as_utf8
from retrycli.domain.transition import IdRange
from retrycli.store.database import Database
from retrycli.store.history import MAY_HAVE_ARRIVED
from retrycli.store.identity import birth_text
from retrycli.store.messages import has_status, row_by_row, same_id, within
from retrycli.store.schema import attempts, queue

BATCH = 5_000  # number of attempts that one transaction examines
CAUSES = (WITHDRAWN, DELIVERED, PARTLY, UNSETTLED, SENDING) = range(5)  # a message counts for the first of its causes


def blocked(database: Database) -> "list[array[int]]":
    """Return the messages that must not move, by cause. They are in arrays, because there may be a million."""
    a, m, after = attempts.c, database.table.all_rows, None  # a row that is left out now may come back
    claimed = select(queue.c.message_id).where(queue.c.state == State.SENDING.value)
    sending = {number for (number,) in database.rows(claimed)}
    found = [*(array("q") for _ in CAUSES[1:]), array("q", sorted(sending))]
    cause = case(
        (a.outcome == OutcomeKind.DELIVERED.value, DELIVERED),
        (a.delivered_to.is_not(None), PARTLY),
        (MAY_HAVE_ARRIVED, UNSETTLED),
    )
    # An enumeration may lack the value rejected, so it is compared as text.
    closed = or_(has_status(m.c, MessageStatus.SENT), cast(m.c.status, Text) == MessageStatus.REJECTED.value)
    # No command acts on a row that `database.where` leaves out, so it counts as withdrawn.
    chosen_now = database.messages.alias("chosen_now").c.id
    is_chosen = select(chosen_now).where(chosen_now == m.c.id).exists() if database.mapping else true()
    failed = case((and_(is_chosen, has_status(m.c, MessageStatus.FAILED)), 1), else_=0)
    chosen = select(a.message_id, cause, failed, a.birth, birth_text(m)).where(cause.is_not(None), ~row_by_row(closed))
    while True:
        rest = select(a.message_id).where(*within(a.message_id, IdRange(after, None))).order_by(a.message_id)
        span = IdRange(after, database.scalar(rest.offset(BATCH - 1).limit(1)))
        first: dict[int, int] = {}
        joined = chosen.join_from(attempts, m, same_id(m.c.id, a.message_id, span)).order_by(a.message_id)
        for number, why, is_open, tried, birth in database.rows(joined):
            now = birth_of(as_utf8(birth))
            of = now if tried is None else birth_of(tried)
            # A delivery under another ticket is of another message; an unsettled attempt may be of this one.
            if (
                number not in sending
                and is_of_one_message(of, now)
                and (why != DELIVERED or of in {now, OF_ANY_TICKET})
            ):
                first[number] = min(why if is_open else WITHDRAWN, first.get(number, why))
        for number, why in first.items():
            found[why].append(number)
        if (after := span.upto) is None:
            return found
