"""Find the user of a request to `retrycli serve`: by bearer token, by the console's cookie, or by a proxy's header."""

import hmac
import logging
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from starlette.requests import HTTPConnection

from retrycli.config.settings import Settings
from retrycli.domain.sanitize import shortened
from retrycli.domain.user import User
from retrycli.operations import tokens, wiring
from retrycli.operations.tokens import Token
from retrycli.web import sessions
from retrycli.web.access import bearer_token

logger = logging.getLogger("retrycli")

Value = TypeVar("Value")

LONGEST_ADDRESS = 45  # characters of an IPv6 address
MOST_LINES = 10  # log lines about sign-ins and refusals in one minute


class TokenUsers:
    """The users of the tokens' file ``web.tokens_file``. The file is read again as soon as it has changed.

    Raises:
        ConfigurationError: the tokens' file or its signing key can't be used, or there is no token.
    """

    def __init__(self, settings: Settings, *, now: Callable[[], datetime] = wiring.utc_now) -> None:
        self._settings = settings
        self._now = now
        self._cookie_path = settings.web.root_path or "/"  # of the console and the API
        file = tokens.tokens_file(settings)
        self._tokens = _WatchedFile(file, lambda: tokens.load(settings))
        self._ended = _WatchedFile(tokens.ended_sessions_file(file), lambda: tokens.ended_sessions(settings))
        self._minute, self._events = 0, Counter[str]()
        tokens.require_some(settings)
        self.key = tokens.signing_key(settings)  # signs cookies; all workers share it

    def __call__(self, request: HTTPConnection) -> User | None:
        """Return the user of a request; None without valid credentials.

        Raises:
            ConfigurationError: the tokens' file can't be used any more.
        """
        if given := bearer_token(request):
            found = self.token_of(request, given)
        elif header := self._settings.web.user_header:
            names = request.headers.getlist(header)
            found = next((token for token in self._tokens() if [token.name] == names), None)
        else:
            session = self.session(request)
            found = None if session is None else session.token
        return None if found is None else found.user

    def session(self, request: HTTPConnection) -> sessions.ValidSession | None:
        """Return the session of the request's cookie; None if there is none, or if its user has signed out."""
        cookie = sessions.cookie_of(sessions.COOKIE, request, self._cookie_path)
        found = sessions.verify(cookie, self._tokens(), self.key, self._now()) if cookie else None
        ended = found is not None and tokens.has_ended(self._ended(), found.id, found.token.name, found.end)
        return None if ended else found

    def sign_out(self, session: sessions.ValidSession) -> None:
        """End a session, for all workers."""
        tokens.end_session(self._settings, session.id, session.token.name, session.end, now=self._now())

    def cookie_settings(self, request: HTTPConnection) -> dict[str, Any]:
        """Return the arguments that set or delete the session's cookie."""
        return sessions.cookie_settings(sessions.COOKIE, request, self._cookie_path)

    def token_of(self, request: HTTPConnection, given: str) -> Token | None:
        """Return the token that a user has given; None if it is unknown, which is logged."""
        digest = tokens.digest(given)
        found = next((token for token in self._tokens() if hmac.compare_digest(token.sha256, digest)), None)
        if found is None:
            self._log("Refused an invalid token", request)
        return found

    def sign_in(self, request: HTTPConnection, given: str) -> Token | None:
        """Return the token with which a user signs in; None if it is unknown. Either is logged."""
        found = self.token_of(request, given)
        if found is not None:
            self._log(f"Signed in {found.name}, {found.role}", request, level=logging.INFO)
        return found

    def _log(self, what: str, request: HTTPConnection, *, level: int = logging.WARNING) -> None:
        """Log an event with the client's address: in a minute, at most `MOST_LINES` refusals, and as many sign-ins of
        each user.
        """
        minute = int(self._now().timestamp()) // 60
        if minute != self._minute:
            if (more := sum(max(number - MOST_LINES, 0) for number in self._events.values())) > 0:
                logger.warning("%s more sign-ins and refusals in that minute", f"{more:,}")
            self._minute, self._events = minute, Counter()
        self._events[what] += 1
        if self._events[what] <= MOST_LINES:
            # Any process that may act as the proxy can send any text.
            where = shortened(request.client.host, LONGEST_ADDRESS) if request.client else "an unknown address"
            logger.log(level, "%s, from %s", what, where)

    def cookie(self, token: Token) -> str:
        """Return the cookie of a session that begins now."""
        return sessions.sign(token, self.key, self._now())


class _WatchedFile(Generic[Value]):
    """Read a file again as soon as it has changed."""

    def __init__(self, file: Path, read: Callable[[], Value]) -> None:
        self._file = file
        self._read = read
        self._last: tuple[object, Value] | None = None

    def __call__(self) -> Value:
        version = _version(self._file)
        if self._last is None or version is None or version != self._last[0]:  # `read` says why there is no version
            self._last = version, self._read()
        return self._last[1]


def _version(file: Path) -> object:
    """Return a value that changes with a file; None if the file can't be examined."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode, found.st_uid
