"""Notify operators of changes, and ping a dead-man switch for each pass.

A failed notification or ping never fails a pass. The first failure of a target or of the switch is logged as a
warning, which is repeated every ``notify.remind_hours`` while the failures last.
"""

import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache, cached_property

from retrycli.config.settings import Settings
from retrycli.domain.errors import ConfigurationError, RetrycliError
from retrycli.domain.incidents import LOOKBACK, Incident, Memory, Topic, Turn, target_name
from retrycli.domain.passes import Event, PassResult, PassStarted, PassSummary
from retrycli.notify import apprise, heartbeat, notices
from retrycli.notify.notices import NoticeContext, trial, worded
from retrycli.operations.expiry import Expiry
from retrycli.operations.wiring import connect
from retrycli.store.database import Database
from retrycli.store.listing import MessageQueries
from retrycli.store.passes import Ledger, Targets
from retrycli.store.summaries import ESCALATED, QueueCounts, escalation_groups
from retrycli.views.log_lines import logger

MAX_LOOKED_UP = 200  # maximum number of escalations that a pass reads to name tickets in a notification
# Maximum time for which a pass reserves the sending of notifications. All targets are notified in parallel, within 30
# seconds, so a pass that holds the reservation longer has probably died.
NOTIFY_LEASE = timedelta(minutes=2)
PING = "ping"  # name of the dead-man switch in the list of targets


# -- notifications --------------------------------------------------------------------------------------------


def notify(settings: Settings, database: Database, summary: PassSummary, now: datetime, expiry: Expiry | None) -> None:
    """Send each target one notification with all news that it has not received. Never raise. If a pass on another host
    is sending notifications, leave the news to the next pass.
    """
    targets = Targets(database)
    try:
        if targets.begin_telling(now, now + NOTIFY_LEASE):
            try:
                _Notifier(settings, database, targets, summary, now, expiry).notify()
            finally:
                targets.end_telling()
    except Exception as error:  # noqa: BLE001  no error may fail a pass that has already run
        words = str(error) if isinstance(error, RetrycliError) else type(error).__name__
        logger.warning("Notifications could not be sent: %s. The next pass will try again", words)


class _Notifier:
    def __init__(
        self,
        settings: Settings,
        database: Database,
        targets: Targets,
        summary: PassSummary,
        now: datetime,
        expiry: Expiry | None,
    ) -> None:
        self._settings = settings
        self._now = now
        self._remind = settings.notify.remind
        self._database, self._targets = database, targets
        self._destinations = [*dict.fromkeys(gateway.destination for gateway in settings.gateway.all.values())]
        breakers = map(Ledger(database).breaker, self._destinations)
        self._open = [breaker for breaker in breakers if breaker.is_down(now)]
        self._current = notices.Situation(
            now=now,
            passes=Ledger(database).passes_up_to(summary.pass_id, LOOKBACK),
            down=Incident(min(breaker.opened_at or now for breaker in self._open)) if self._open else None,
            expiry={Topic.EXPIRY: expiry.incident} if expiry else {},
            interval=settings.schedule.interval,
            remind=self._remind,
        )

    def notify(self) -> None:
        """Find each target's news, send it, and record what the target received."""
        urls = [secret.get_secret_value() for secret in self._settings.notify.urls]
        known = {url: self._memory(url) for url in urls}
        causes = cache(self._causes)
        told = {url: notices.to_tell(self._current, memory, causes) for url, memory in known.items()}
        news = {url: items for url, (items, _, _) in told.items() if items}
        outcomes = apprise.send({url: worded(items, self._context) for url, items in news.items()}) if news else {}
        for number, (url, (_, heard, unheard)) in enumerate(told.items(), 1):
            failure = outcomes.get(url)
            self._targets.remember(target_name(url), known[url], unheard if failure else heard)
            if url in outcomes:
                self._log_outcome(number, url, failure)

    def _memory(self, url: str) -> Memory:
        memory = self._targets.memory(target_name(url))
        if not memory:
            memory = notices.introduction(self._current.passes)
            self._targets.remember(target_name(url), {}, memory)
        return memory

    def _log_outcome(self, number: int, url: str, failure: str | None) -> None:
        at = self._current.passes[0].started_at
        turn = self._targets.follow(
            target_name(url), Topic.UNHEARD, Incident(at) if failure else None, at, self._remind
        )
        target = f"target {number} ({apprise.scheme(url)}) of notify.urls"
        if turn is Turn.ENDED:
            logger.info("Notifications reach %s again", target)
        elif turn is not None:
            logger.warning(
                "No notification reached %s: %s. The next pass will try again; "
                "test the target with `retrycli notify test`",
                target,
                failure,
            )

    def _causes(self, since: datetime | None) -> Sequence[notices.EscalationCause]:
        new = replace(ESCALATED, escalated_after=since, escalated_until=self._now)
        groups = escalation_groups(self._database, new)
        tickets: dict[str | None, dict[str, None]] = {}
        seen: Counter[str | None] = Counter()
        for message in MessageQueries(self._database).messages(new, sort="id", limit=MAX_LOOKED_UP) if groups else ():
            tickets.setdefault(message.fingerprint, {})[str(message.ticket_id)] = None
            seen[message.fingerprint] += 1
        return [
            notices.EscalationCause(
                count=group.count,
                types=group.types,
                error=group.example.last_error,
                example=group.example.id,
                tickets=[*tickets.get(group.fingerprint, {str(group.example.ticket_id): None})],
                more_tickets=group.count > max(seen[group.fingerprint], 1),
            )
            for group in groups
        ]

    @cached_property
    def _context(self) -> NoticeContext:
        counts = QueueCounts(self._database).counts(self._now)
        down = [breaker.destination for breaker in self._open]
        where = ", ".join(down or self._destinations)
        if not down and len(self._destinations) > 1:  # the news may concern any of the destinations
            where = f"one of {where}"
        return NoticeContext(socket.gethostname(), where, self._now, counts["waiting"], counts["escalated"])


# -- the dead-man switch --------------------------------------------------------------------------------------


def with_heartbeat(
    settings: Settings,
    pass_id: str,
    make: Callable[[Callable[[Event], None]], PassSummary],
    listen: Callable[[Event], None] | None,
    now: Callable[[], datetime],
) -> PassSummary:
    """Run a pass, and ping the dead-man switch when the pass begins and when it ends.

    A skipped pass sends no ping. The pass that holds the lock sends its own pings; if it hangs, the missing ping raises
    the alarm. A paused pass counts as successful, because an operator wanted the pause and the scheduler works.

    Raises:
        Exception: any exception of the pass, after the ping.
    """
    url = settings.notify.ping_url
    pings = heartbeat.Ping(url.get_secret_value() if url else "", pass_id)

    def follow(event: Event) -> None:
        if isinstance(event, PassStarted):
            pings.start()
        if listen is not None:
            listen(event)

    try:
        summary = make(follow)
    except Exception as error:
        _warn_of_ping(settings, pings.end(error.exit_code if isinstance(error, RetrycliError) else 1), now())
        raise
    if summary.result is not PassResult.SKIPPED:
        _warn_of_ping(settings, pings.end(summary.exit_status), now())
    return summary


def _warn_of_ping(settings: Settings, failure: str | None, at: datetime) -> None:
    if failure is None:
        return
    turn: Turn | None = Turn.BEGAN  # if the database can't record the warning, warn every time
    with suppress(RetrycliError), closing(connect(settings)) as database:
        turn = Targets(database).follow(PING, Topic.UNHEARD, Incident(at), at, settings.notify.remind)
    if turn is not None:
        logger.warning("The dead-man switch (notify.ping_url) could not be notified of this pass: %s", failure)


# -- tests -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TargetTest:
    """The result of a test of one target or of the dead-man switch."""

    target: str  # position of the URL in notify.urls, or ``ping``
    scheme: str
    failure: str | None


def send_test(settings: Settings, pass_id: str) -> list[TargetTest]:
    """Send a test notification to each target, and a line to the dead-man switch's log.

    Raises:
        ConfigurationError: neither a target nor a dead-man switch is set, or Apprise is not installed.
    """
    urls = [secret.get_secret_value() for secret in settings.notify.urls]
    ping_url = settings.notify.ping_url
    if not urls and ping_url is None:
        raise ConfigurationError(
            "neither notify.urls nor notify.ping_url is set. "
            "Put Apprise URLs in a file, one per line, and set notify.urls_file to its path"
        )
    failures = apprise.send(dict.fromkeys(urls, trial(socket.gethostname())))
    if apprise.MISSING in failures.values():
        raise ConfigurationError(apprise.MISSING)
    tried = [TargetTest(str(number), apprise.scheme(url), failures[url]) for number, url in enumerate(urls, 1)]
    if ping_url is not None:
        text = ping_url.get_secret_value()
        tried.append(TargetTest(PING, apprise.scheme(text), heartbeat.Ping(text, pass_id).note()))
    return tried
