"""Check who is notified: the notification targets and the dead-man switch. Nothing is sent to them."""

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from retrycli.domain.errors import ConfigurationError
from retrycli.notify import apprise
from retrycli.operations.doctor.context import Context, Finding, failure, of_error, warning, well
from retrycli.operations.schedule.callers import callers_of

CONNECT_SECONDS = 5.0


def notifications(context: Context) -> Iterator[Finding]:
    """Check that targets can be reached. Only a target's number and scheme are shown, because the rest may be
    secret.
    """
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
            yield well("notifications", f"{name}: only `retrycli notify test` can show whether it is reachable")
        elif problem := _connect(*place):
            remedy = "check the network, or fix notify.urls; then `retrycli notify test`"
            yield failure("notifications", f"{name} can't be reached: {problem}", remedy)
        else:
            yield well("notifications", f"{name} can be reached; `retrycli notify test` sends a test notification")


def _connect(host: str, port: int) -> str | None:
    """Return why an address can't be reached, without naming it; None if it can be reached. Send nothing."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except TimeoutError:
        return f"no response within {CONNECT_SECONDS:g} s"
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or type(error).__name__
    return None


def _cron_mail(context: Context) -> Iterator[Finding]:
    """Warn if warnings reach nobody, or only a service user's mailbox."""
    for caller in callers_of(context.loaded, context.host):
        remedy = f"set notify.urls, or put MAILTO=you@example.com at the top of {caller.title}"
        if caller.mail_to:
            continue
        if caller.kind == "timer":
            who, why, remedy = "no operator is notified of problems", "a timer sends no mail", "set notify.urls"
        elif caller.mail_to is None:
            who, why = f"cron mails problems to {caller.user or caller.owner}", f"{caller.title} has no MAILTO"
        else:
            who, why = "no operator is notified of problems", f"MAILTO is empty in {caller.title}"
        yield warning("notifications", f"{who}: notify.urls is not set, and {why}", remedy)


def ping(context: Context) -> Iterator[Finding]:
    """Check that the dead-man switch can be reached."""
    secret = context.settings.notify.ping_url
    if secret is None:
        return
    parts = urlsplit(secret.get_secret_value())
    problem = _connect(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    if problem is None:
        yield well("ping", "the dead-man switch can be reached")
    else:
        words = f"the dead-man switch can't be reached: {problem}"
        yield failure("ping", words, "check the network, or fix notify.ping_url")
