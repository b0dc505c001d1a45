"""Measure the queue, and write the metrics file at the end of a pass."""

from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from retrycli.config.settings import Settings
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import OutcomeKind
from retrycli.domain.passes import PassResult
from retrycli.domain.transition import Route
from retrycli.operations.wiring import open_database, pass_rules, utc_now
from retrycli.store import schema
from retrycli.store.claims import Claims
from retrycli.store.counters import Totals
from retrycli.store.database import Database
from retrycli.store.delivery_stats import Statistics
from retrycli.store.passes import Ledger
from retrycli.store.summaries import QueueCounts
from retrycli.views import prometheus


def write_metrics(settings: Settings, database: Database, path: Path, now: datetime) -> str | None:
    """Write the metrics file. Return the reason if the file can't be written.

    Raises:
        DatabaseUnavailable: the database can't be read or written.
    """
    Totals(database).roll_up(now)
    try:
        prometheus.write(path, prometheus.text(measured(settings, database, now)))
    except ConfigurationError as error:
        return str(error)
    return None


def measure(settings: Settings, *, now: Callable[[], datetime] = utc_now) -> Mapping[str, Any]:
    """Return the metrics, by metric name.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return measured(settings, database, now())


def measured(settings: Settings, database: Database, now: datetime) -> Mapping[str, Any]:
    """Return the metrics of an open database, by metric name.

    Raises:
        DatabaseUnavailable: the database can't be read.
    """
    ledger, measures = Ledger(database), QueueCounts(database)
    rules = pass_rules(settings, to_send=False)
    pause, holds = ledger.pause_and_holds(now)
    counted = Totals(database).read()
    in_queue = measures.in_queue()
    first, newest = Statistics(database).first_and_last_pass()
    ended, succeeded = measures.last_pass(), measures.last_pass(result=PassResult.COMPLETED)
    hosts = {name: urlsplit(name).netloc or name for name in settings.gateway.destinations}
    standing = ledger.standing_breakers(hosts, now)
    down = {hosts[breaker.destination] for breaker in standing if breaker.needs_operator(now)}
    return {
        "retrycli_build_info": {(version("retrycli"), schema.HEAD): 1},
        "retrycli_retry_interval_seconds": settings.schedule.retry_interval_minutes * 60,
        "retrycli_first_pass_start_timestamp_seconds": counted.first_start or first,
        "retrycli_last_pass_start_timestamp_seconds": newest,
        "retrycli_last_pass_duration_seconds": (
            (ended.finished_at - ended.started_at).total_seconds() if ended else None
        ),
        "retrycli_last_success_timestamp_seconds": succeeded.finished_at if succeeded else counted.last_success,
        # Every series starts at 0, because Prometheus does not count the value with which a new series appears.
        "retrycli_passes": {**dict.fromkeys(map(str, PassResult), 0), **counted.passes},
        "retrycli_attempts": {**dict.fromkeys(map(str, OutcomeKind), 0), **counted.attempts},
        # Unknown message types and deleted rows share a label value, because each value creates a time series.
        "retrycli_messages": {
            (state.value, kind or "other"): number for (state, kind), number in in_queue.numbers.items()
        },
        "retrycli_due_messages": Claims(database).count_due(
            rules.due_by(now), Route("", withheld=rules.withheld(holds, now))
        ),
        "retrycli_oldest_waiting_age_seconds": _age(now, in_queue.waiting_since),
        "retrycli_oldest_escalated_age_seconds": _age(now, in_queue.escalated_since),
        "retrycli_oldest_unacknowledged_age_seconds": _age(now, in_queue.unacknowledged_since),
        "retrycli_paused": pause is not None,
        # A host with several destinations is down if any of them is.
        "retrycli_breaker_open": {host: host in down for host in hosts.values()},
    }


def _age(now: datetime, since: datetime | None) -> float:
    return 0 if since is None else max((now - since).total_seconds(), 0)
