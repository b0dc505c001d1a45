"""Send notifications with Apprise, and return the result for each target. No result contains a target's URL."""

import logging
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock, Thread
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from retrycli.domain.errors import ConfigurationError
from retrycli.notify.notices import Notice
from retrycli.system.process import install

MISSING = f"apprise is not installed; run `{install('notify')}`"

# Time limit for all targets, which are notified in parallel. Apprise limits only each step of an SMTP session, not the
# whole delivery.
WAIT_SECONDS = 30.0

SENDING = Lock()  # only one sender at a time can silence the loggers, because all threads share them


def scheme(url: str) -> str:
    """Return the scheme of a URL. It contains no secret, so it may be shown."""
    return url.partition("://")[0].lower()


def send(notices: Mapping[str, Notice]) -> dict[str, str | None]:
    """Send each target its notice. Notify the targets in parallel.

    Args:
        notices: the notices, by Apprise URL of the target. If a service has no titles, Apprise puts the title above the
            text.

    Returns:
        For each URL, None if the target accepted the notice; otherwise the reason, without the URL.
    """
    attempts = {url: _Attempt(url, notice) for url, notice in notices.items()}
    with SENDING, _silence(attempts.values()), _no_proxy():
        for attempt in attempts.values():
            attempt.start()
        give_up_at = monotonic() + WAIT_SECONDS
        for attempt in attempts.values():
            attempt.join(max(give_up_at - monotonic(), 0))
        return {url: attempt.failure for url, attempt in attempts.items()}


class _Attempt(Thread):
    """A daemon thread that notifies one target. If Apprise blocks for too long, `send` abandons the thread, which does
    not delay the exit of the process.
    """

    def __init__(self, url: str, notice: Notice) -> None:
        super().__init__(daemon=True)
        self.failure: str | None = f"no response within {WAIT_SECONDS:g} s"
        self._url, self._notice = url, notice

    def run(self) -> None:
        try:
            self.failure = _send(self._url, self._notice)
        except ImportError:
            self.failure = MISSING
        except Exception as error:  # noqa: BLE001  a plugin may raise any error, and its text may quote the URL
            self.failure = type(error).__name__


def place(url: str) -> tuple[str, int] | None:
    """Return the host and port that receive a target's notifications; None if they are unknown.

    Raises:
        ConfigurationError: Apprise or a package that it needs is not installed, or Apprise does not support the URL.
    """
    with SENDING, _silence(()):
        try:
            target, _ = _parse(url)
        except ImportError:
            raise ConfigurationError(MISSING) from None
    if target is None:
        raise ConfigurationError(f"{_invalid_url(url)}; fix the URL in notify.urls or its file, or install the package")
    if smtp := getattr(target, "smtp_host", None):
        return smtp, int(target.port or 25)
    # The host part of a hosted service's Apprise URL is a token or an id, so the address comes from Apprise's plugin.
    addresses = [str(getattr(target, name, None)) for name in ("notify_url", "webhook_url", "cloud_notify_url")]
    service = next((address for address in addresses if address.startswith("https://")), None)
    own = any("{host}" in pattern for pattern in target.templates) and target.host
    if service is not None and not (own and scheme(url) in {"ntfy", "ntfys"}):
        return urlsplit(service).hostname or "", 443
    return (str(target.host), int(target.port or (443 if target.secure else 80))) if own else None


def _parse(url: str) -> tuple[Any, Any]:
    import apprise

    asset = apprise.AppriseAsset(
        app_id="retrycli",
        app_desc="retrycli",
        app_url="",
        image_url_mask="",
        service_timeout=0,  # 0 turns off Apprise's timeout, because a thread that Apprise abandons delays the exit
        http_redirects=False,
    )
    return apprise.Apprise.instantiate(url, asset=asset), asset


def _invalid_url(url: str) -> str:
    return f"Apprise does not support this {scheme(url)}:// URL, or a package that it needs is missing"


def _send(url: str, notice: Notice) -> str | None:
    import apprise

    target, asset = _parse(url)
    if target is None:
        return _invalid_url(url)
    result = apprise.Apprise(target, asset=asset).notify(
        title=notice.title,
        body=notice.body,
        notify_type=apprise.NotifyType.SUCCESS if notice.good else apprise.NotifyType.WARNING,
        body_format=apprise.NotifyFormat.TEXT,
        interpret_escapes=False,
        log_level=logging.DEBUG,
    )
    return None if result else _reason([line.message for line in result.logs()])


# Patterns for the parts of Apprise's log lines that may be shown, each with the text to show. The rest of a line may
# contain hosts, tokens and responses.
REASONS = (
    (r"\berror=(\d{3})\b", "HTTP {}"),
    (r"\((\d{3}), b['\"]", "SMTP {}"),
    (r"\[Errno -?\d+\] ([A-Za-z ]+)", "{}"),
    (r"\[SSL: ([A-Z_]+)\]", "TLS: {}"),
    (r"((?:SMTP AUTH|STARTTLS) extension not supported)", "{}"),
    (r"(timed out)", "{}"),
)


def _reason(lines: Sequence[str]) -> str:
    for pattern, words in REASONS:
        for line in lines:
            if found := re.search(pattern, line):
                return "not accepted: " + words.format(found[1])
    return "rejected or unreachable"


@contextmanager
def _no_proxy() -> Iterator[None]:
    """Make Apprise ignore the environment's proxy, because cron's environment differs from an operator's."""
    names = ("no_proxy", "NO_PROXY")
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(dict.fromkeys(names, "*"))
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


@contextmanager
def _silence(attempts: Collection[_Attempt]) -> Iterator[None]:
    """Keep the lines of Apprise and its libraries out of every log: they may contain hosts, tokens and responses.

    If an attempt is still running at the end, keep its lines out for the rest of the process.
    """
    loggers = [logging.getLogger(name) for name in ("apprise", "urllib3", "requests")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [logging.NullHandler()], False
    loggers[0].setLevel(logging.DEBUG)  # Apprise collects the debug lines for `_reason`
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if not any(attempt.is_alive() for attempt in attempts):
            for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
                logger.handlers, logger.propagate = handlers, propagate
                logger.setLevel(level)
