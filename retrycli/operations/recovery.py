"""Record what processes that have died left of their messages, so that operators can act on these messages."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from retrycli.config.settings import Settings
from retrycli.domain.errors import ConfigurationError, LockUnusable
from retrycli.domain.transition import Claim
from retrycli.engine.enrolment import recover_all
from retrycli.operations.wiring import Runtime, lock_path, make_dependencies, open_database, pass_rules
from retrycli.store.claims import Claims
from retrycli.store.database import Database
from retrycli.system.pass_lock import PassLock


@contextmanager
def open_to_act(settings: Settings, runtime: Runtime) -> Iterator[Database]:
    """Open the database for an operator's action, after `record_dead`.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        record_dead(settings, database, runtime)
        yield database


def record_dead(settings: Settings, database: Database, runtime: Runtime) -> None:
    """Record what processes that have died left of their messages, as a pass does. Otherwise nobody could act on these
    messages before the next pass, which also sends them. Do nothing while a pass holds the lock, which may have been
    suspended, or if the settings are not accepted.
    """
    deps = make_dependencies(settings, database, runtime)
    now = deps.now()
    if not Claims(database).has_expired(now):
        return
    try:
        if PassLock(lock_path(settings)).holder() is not None:
            return
        deps.require_accepted()
    except (LockUnusable, ConfigurationError):
        return
    rules = pass_rules(settings)
    for events in recover_all(deps, rules, Claim(str(uuid.uuid4()), now + rules.lease), now):
        for event in events:
            deps.emit(event)
