"""Find the user of a request to `retrycli serve`: by bearer token, by the console's cookie, or by a proxy's header."""

import hmac
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from starlette.requests import HTTPConnection

from retrycli.config.settings import Settings
from retrycli.domain.user import User
from retrycli.operations import tokens, wiring
from retrycli.operations.tokens import Token
from retrycli.web import sessions
from retrycli.web.access import bearer_token


class TokenUsers:
    """The users of the tokens' file ``web.tokens_file``. The file is read again as soon as it has changed.

    Raises:
        ConfigurationError: the tokens' file or its signing key can't be used, or there is no token.
    """

    def __init__(self, settings: Settings, *, now: Callable[[], datetime] = wiring.utc_now) -> None:
        self._settings = settings
        self._file: Path = tokens.tokens_file(settings)
        self._now = now
        self._read: tuple[object, Sequence[Token]] = (None, ())
        tokens.require_some(settings)
        self._key = tokens.signing_key(settings)

    def __call__(self, request: HTTPConnection) -> User | None:
        """Return the user of a request; None without valid credentials.

        Raises:
            ConfigurationError: the tokens' file can't be used any more.
        """
        if given := bearer_token(request):
            found = self.token_of(given)
        elif header := self._settings.web.user_header:
            names = request.headers.getlist(header)
            found = next((token for token in self._tokens() if [token.name] == names), None)
        else:
            cookie = request.cookies.get(sessions.COOKIE, "")
            found = sessions.verify(cookie, self._tokens(), self._key, self._now()) if cookie else None
        return None if found is None else found.user

    def token_of(self, given: str) -> Token | None:
        """Return the token that a user has given; None if it is unknown."""
        digest = tokens.digest(given)
        return next((token for token in self._tokens() if hmac.compare_digest(token.sha256, digest)), None)

    def cookie(self, token: Token) -> str:
        """Return the cookie of a session that begins now."""
        return sessions.sign(token, self._key, self._now())

    def _tokens(self) -> Sequence[Token]:
        try:
            found = self._file.stat()
            version: object = (found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode, found.st_uid)
        except OSError:
            version = None  # `load` names the reason
        if version is None or version != self._read[0]:
            self._read = version, tokens.load(self._settings)
        return self._read[1]
