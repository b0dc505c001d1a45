"""Find the destinations that refuse all requests."""

from collections.abc import Sequence

from sqlalchemy import select

from retrycli.domain import incidents
from retrycli.domain.outcome import ALIVE, IN_DOUBT, OutcomeKind
from retrycli.domain.passes import PassRecord, StopReason
from retrycli.store.database import Database
from retrycli.store.schema import attempts


def refusing_destinations(database: Database, passes: Sequence[PassRecord]) -> dict[str, PassRecord]:
    """Return the destinations that refuse all requests, each with the newest pass whose requests it refused. The passes
    are the last ones, newest first.

    A destination's refusal ends with a delivery there. It also ends with a later pass that delivers messages anywhere,
    unless another problem stops that pass. If the credentials were refused, a later response about a single message
    also ends the refusal.
    """
    newest = [found[0] for reason in incidents.REFUSED if (found := incidents.lasting(reason, passes))]
    return {destination: record for record in newest for destination in _refused_by(database, record)}


def _refused_by(database: Database, tried: PassRecord) -> list[str]:
    """List the destinations that refused requests of a pass and have shown no sign of recovery since."""
    kinds = (attempts.c.destination, attempts.c.pass_id, attempts.c.outcome, attempts.c.status_code)
    since = attempts.c.finished_at >= tried.started_at  # attempts.started_at has no index
    found = database.rows(select(*kinds).where(since, kinds[0].is_not(None)).distinct())
    over = {to for to, _, outcome, _ in found if outcome == OutcomeKind.DELIVERED}
    if tried.reason == StopReason.CREDENTIALS_REFUSED:
        # A server that accepts or rejects a single message has accepted the credentials. An ambiguous response does not
        # show this, because it may come from a proxy.
        over |= {
            to
            for to, pass_id, outcome, status in found
            if pass_id != tried.pass_id and outcome in ALIVE and status not in {None, *IN_DOUBT}
        }
    refused = {
        to
        for to, pass_id, outcome, status in found
        if pass_id == tried.pass_id and (outcome == OutcomeKind.UNAUTHORIZED or status in IN_DOUBT)
    }
    return sorted(refused - over)
