"""Check what retrycli connects to: ticketing APIs, mail servers, notification targets and the dead-man switch.

No message and no notification is sent.
"""

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from urllib.parse import urlsplit

from retrycli.config.gateway import GatewaySettings
from retrycli.domain import incidents
from retrycli.domain.circuit_breaker import PROBED, BreakerState
from retrycli.domain.duration import utc_text
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import OUTAGE, Outcome, OutcomeKind
from retrycli.notify import apprise
from retrycli.operations.doctor.context import (
    CLOCK_TOLERANCE,
    Context,
    Finding,
    compared_clocks,
    failure,
    of_error,
    ok,
    warning,
)
from retrycli.store import schema
from retrycli.store.database import Database
from retrycli.store.passes import Ledger, refusing_destinations
from retrycli.store.summaries import QueueCounts
from retrycli.system import crontab

CHECK_CREDENTIALS = "check the credentials and other gateway settings: `retrycli config show`; then `retrycli run-once`"
DELIVER_TEST = "nothing is waiting to be sent; to test delivery, run `retrycli deliver-test --ticket T`"
CONNECT_SECONDS = 5.0


def api(context: Context, database: Database | None) -> Iterator[Finding]:
    """Check that each destination is reachable, accepts the credentials, and has no open circuit breaker.

    If only a delivery can test the credentials, report whether the destination refused the messages of recent passes.
    """
    if database is not None and database.revision() != schema.HEAD:
        database = None  # this program can't read tables of another version
    refusals = {} if database is None else _refusals(context, database)
    waits = bool(refusals) and database is not None and QueueCounts(database).counts(context.now())["waiting"] > 0
    for gateway in context.settings.gateway.all.values():
        refusal = refusals.get(gateway.destination)
        for finding in CHECKS[gateway.kind](context, gateway, refusal):
            # If no messages wait, no pass can test whether the destination still refuses them. The refusal is then only
            # a warning.
            is_old = refusal is not None and not waits and refusal in finding.found
            yield warning(finding.name, finding.found, DELIVER_TEST) if is_old else finding
    if database is not None:
        yield from _outages(context, database)


def _outages(context: Context, database: Database) -> Iterator[Finding]:
    """Report open circuit breakers, because a destination that passes the other checks may still accept no message."""
    used: dict[str | None, str] = {
        section.destination: section.kind for section in context.settings.gateway.all.values()
    }
    names = {"http": ("api", "API"), "smtp": ("smtp", "server"), "python": ("function", "function, and what it calls")}
    for breaker in Ledger(database).standing_breakers(used, context.now()):
        if breaker.needs_operator(context.now()) and breaker.opened_at is not None and breaker.probe_at is not None:
            name, what = names[used[breaker.destination]]
            at_once = "; `retrycli run-once --probe` probes it now"
            why, cure = {
                BreakerState.UNREAD: (
                    "the preset can't judge the responses",
                    f"add [success] to the preset (see `retrycli manual presets`){at_once}",
                ),
                BreakerState.RESTING: (
                    "it only asks retrycli to wait",
                    "look at the rate limits of the account; run.rate_per_second slows retrycli down",
                ),
            }.get(breaker.state, (f"{breaker.failures} failures in a row", f"check the {what}{at_once}"))
            yield failure(
                name,
                f"no delivery to {breaker.destination} has succeeded since {utc_text(breaker.opened_at)}: {why}; "
                f"the next {'probe' if breaker.state in PROBED else 'attempt'} is at {utc_text(breaker.probe_at)}",
                cure,
            )


def _refusals(context: Context, database: Database) -> dict[str, str]:
    ledger = Ledger(database)
    passes = ledger.last_passes(incidents.LOOKBACK, until=context.now() + CLOCK_TOLERANCE)
    return {
        destination: (
            f"it refused messages of the pass that began at {record.started_at:%Y-%m-%dT%H:%M:%SZ}: {record.detail}"
        )
        for destination, record in refusing_destinations(database, passes).items()
        # Leave out certificate errors, because the probe verifies the certificate itself.
        if "certificate" not in str(record.detail).lower()
    }


def _mail_server(context: Context, gateway: GatewaySettings, refusal: str | None) -> Iterator[Finding]:
    from retrycli.gateway.smtp.gateway import SmtpGateway

    found = asyncio.run(SmtpGateway(gateway, columns=None, connections=1, now=context.now).probe())
    where, said = gateway.destination, found.error
    if found.kind is OutcomeKind.UNAUTHORIZED and found.status_code is not None:
        yield failure("smtp", f"{where} rejects the login: {said}", "fix gateway.username and gateway.password")
    elif found.kind is OutcomeKind.UNAUTHORIZED:
        yield failure(
            "smtp",
            f"can't connect securely or log in to {where}: {said}",
            "if the certificate is invalid, set gateway.ca_file, or fix the certificate; otherwise check "
            "gateway.starttls, gateway.username and gateway.password",
        )
    elif found.kind is OutcomeKind.UNREACHABLE:
        yield failure("smtp", f"{where} can't be reached: {said}", "check the network, or fix gateway.base_url")
    elif found.kind is not OutcomeKind.DELIVERED:
        yield warning("smtp", f"{where} has a problem: {said}", "check the server; deliveries resume when it is back")
    elif refusal is not None and not gateway.username:
        yield failure("smtp", f"{where} responds, but {refusal}", CHECK_CREDENTIALS)
    else:
        yield ok("smtp", f"{where} responds" + (" and accepts the login" if gateway.username else ""))
    if gateway.username and not gateway.starttls and not _is_here(where) and not where.startswith("smtps:"):
        yield warning("smtp", f"the password is sent to {where} unencrypted", "set gateway.starttls = true")


def _is_here(url: str) -> bool:
    return urlsplit(url).hostname in {"localhost", "127.0.0.1", "::1"}


def _ticketing_api(context: Context, gateway: GatewaySettings, refusal: str | None) -> Iterator[Finding]:
    from aiohttp import __version__

    from retrycli.gateway.http import lookup, transport

    if not transport.is_tried():
        yield warning(
            "api",
            f"retrycli was not tried with aiohttp {__version__}, so each request opens its own connection, which is "
            "slower",
            f"install a newer retrycli, or `{sys.executable} -m pip install 'aiohttp=={transport.TRIED[-1]}.*'`",
        )
    found = asyncio.run(lookup.probe(gateway, now=context.now))
    yield _probe_finding(gateway, found.outcome, refusal, proves_credentials=found.proves_credentials)
    if found.ahead_seconds is not None:
        yield compared_clocks("the ticketing API", timedelta(seconds=found.ahead_seconds))
    if gateway.destination.startswith("http:") and not _is_here(gateway.destination) and _has_credentials(gateway):
        yield warning(
            "api", f"the credentials are sent to {gateway.destination} unencrypted", "use https:// in gateway.base_url"
        )


def _probe_finding(
    gateway: GatewaySettings, outcome: Outcome, refusal: str | None, *, proves_credentials: bool
) -> Finding:
    where, said = gateway.destination, outcome.error
    if outcome.kind is OutcomeKind.UNAUTHORIZED and outcome.status_code is None:
        return failure(
            "api",
            f"the certificate of {where} can't be verified: {said}",
            "set gateway.ca_file, or fix the server's certificate",
        )
    if outcome.kind is OutcomeKind.UNAUTHORIZED and not _has_credentials(gateway):
        words = f"{where} requires credentials ({said}), but none are set"
        if refusal is None:
            return warning("api", words, "set gateway.auth")
        return failure("api", f"{words}; {refusal}", "set gateway.auth")
    if outcome.kind is OutcomeKind.UNAUTHORIZED:
        return failure(
            "api", f"{where} refuses the credentials: {said}", "correct the credentials; see `retrycli config show`"
        )
    if outcome.status_code is None and outcome.kind in OUTAGE:
        return failure("api", f"{where} can't be reached: {said}", "check the network, or fix gateway.base_url")
    if outcome.kind in {*OUTAGE, OutcomeKind.THROTTLED}:
        return warning("api", f"{where} has a problem: {said}", "check the API; deliveries resume when it is back")
    if proves_credentials and outcome.kind is OutcomeKind.DELIVERED:
        return ok("api", f"{where} responds and accepts the credentials")
    if proves_credentials:
        return failure(
            "api",
            f"{where} responds, but the preset's check got {said}",
            "check gateway.base_url and the permissions of the account",
        )
    if refusal is not None:
        return failure("api", f"{where} responds ({said} to a GET), but {refusal}", CHECK_CREDENTIALS)
    proof = "; only a delivery can show whether it accepts the credentials" if _has_credentials(gateway) else ""
    return ok("api", f"{where} responds ({said} to a GET){proof}")


def _python_sender(context: Context, gateway: GatewaySettings, refusal: str | None) -> Iterator[Finding]:
    del context  # `machine.functions` checks the function itself
    if refusal is not None:
        yield failure("function", f"{gateway.call}: {refusal}", "check the credentials that it uses")


# The check of each kind of gateway. Its arguments are the context, the settings, and the refusal of recent messages, if
# any.
CHECKS: dict[str, Callable[[Context, GatewaySettings, str | None], Iterator[Finding]]] = {
    "http": _ticketing_api,
    "smtp": _mail_server,
    "python": _python_sender,
}


def _has_credentials(gateway: GatewaySettings) -> bool:
    return gateway.auth != "none" and any((gateway.token, gateway.username, gateway.password))


def notifications(context: Context) -> Iterator[Finding]:
    """Check the notification targets. Show only a target's number and scheme: the rest of its URL may be secret."""
    if not context.settings.notify.urls:
        yield from _cron_mail(context)
    for number, secret in enumerate(context.settings.notify.urls, 1):
        url = secret.get_secret_value()
        name = f"target {number} ({apprise.scheme(url)})"
        try:
            place = apprise.place(url)
        except ConfigurationError as error:
            yield of_error("notifications", f"{name}: {error}")
            continue
        if place is None:
            yield ok("notifications", f"{name}: only `retrycli notify test` can show whether it is reachable")
        elif problem := _connect(*place):
            yield failure(
                "notifications",
                f"{name} can't be reached: {problem}",
                "check the network, or fix notify.urls; then `retrycli notify test`",
            )
        else:
            yield ok("notifications", f"{name} can be reached; `retrycli notify test` sends a test notification")


def _connect(host: str, port: int) -> str | None:
    """Return why an address can't be reached, without naming the address; None if it can be reached. Send nothing."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except TimeoutError:
        return f"no response within {CONNECT_SECONDS:g} s"
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or type(error).__name__
    return None


def _cron_mail(context: Context) -> Iterator[Finding]:
    """Warn if warnings from passes reach no operator, or only a local mailbox."""
    for block in crontab.blocks(context.host, context.settings.file):
        if block.mail_to:
            continue
        if block.mail_to is None:
            who = f"cron mails warnings only to the local user {block.user}"
            why = f"{block.title} has no MAILTO"
        else:
            who, why = "warnings from passes reach no operator", f"MAILTO is empty in {block.title}"
        remedy = f"set notify.urls, or set MAILTO=you@example.com at the top of {block.title}"
        yield warning("notifications", f"{who}: notify.urls is not set, and {why}", remedy)


def ping(context: Context) -> Iterator[Finding]:
    """Check that the dead-man switch can be reached."""
    secret = context.settings.notify.ping_url
    if secret is None:
        return
    parts = urlsplit(secret.get_secret_value())
    problem = _connect(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    if problem is None:
        yield ok("ping", "the dead-man switch can be reached")
    else:
        yield failure(
            "ping", f"the dead-man switch can't be reached: {problem}", "check the network, or fix notify.ping_url"
        )
