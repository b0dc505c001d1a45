"""Record what processes that have died left of their messages, so that operators can act on these messages."""

import uuid

from retrycli.config.settings import Settings
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.transition import Claim
from retrycli.engine.enrolment import recover_all
from retrycli.operations.wiring import Runtime, make_dependencies, pass_rules
from retrycli.store.claims import Claims
from retrycli.store.database import Database


def record_dead(settings: Settings, database: Database, runtime: Runtime) -> None:
    """Record what processes that have died left of their messages, as a pass does, unless the settings are not
    accepted. Otherwise nobody could act on these messages before the next pass, which also sends them.
    """
    deps = make_dependencies(settings, database, runtime)
    now = deps.now()
    if not Claims(database).has_expired(now):
        return
    try:
        deps.require_accepted()
    except ConfigurationError:
        return
    rules = pass_rules(settings)
    for events in recover_all(deps, rules, Claim(str(uuid.uuid4()), now + rules.lease), now):
        for event in events:
            deps.emit(event)
