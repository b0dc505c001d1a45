"""Pause and resume deliveries."""

from collections.abc import Callable
from datetime import datetime, timedelta

from retrycli.config.settings import Settings
from retrycli.domain.operator_action import OperatorAction
from retrycli.domain.passes import Pause
from retrycli.domain.transition import ActionKind
from retrycli.operations.wiring import clock, login_name, open_database, utc_now
from retrycli.store.history import act_values
from retrycli.store.passes import Ledger


def pause(
    settings: Settings,
    *,
    length: timedelta | None = None,
    reason: str | None = None,
    by: str | None = None,
    now: Callable[[], datetime] = utc_now,
) -> tuple[Pause, Pause | None]:
    """Pause deliveries, for a period or until `resume`. Return the pause and the active pause that it replaces."""
    with open_database(settings) as database:
        at = clock(database, now)()
        wanted = Pause(at, None if length is None else at + length, by or login_name(), reason)
        ledger = Ledger(database)
        with database.transaction():
            replaced = ledger.pause(at)
            end = wanted.end if replaced is None else f"{wanted.end} (replaces {replaced.in_words})"
            ledger.set_pause(wanted, act_values(OperatorAction(ActionKind.PAUSED, wanted.by, at, end)))
    return wanted, replaced


def resume(settings: Settings, *, by: str | None = None, now: Callable[[], datetime] = utc_now) -> Pause | None:
    """End the active pause, if any, and return it."""
    with open_database(settings) as database:
        ledger, at = Ledger(database), clock(database, now)()
        with database.transaction():
            ended = ledger.pause(at)
            act = None if ended is None else OperatorAction(ActionKind.RESUMED, by or login_name(), at, ended.in_words)
            ledger.set_pause(None, act and act_values(act))
    return ended
