"""Manage the tokens with which users sign in to the console and the HTTP API.

The tokens' file keeps a name, a role and the SHA-256 of each token, but no token. Beside it, a second file has the
random key that signs the cookies of the console, and a third the sessions from which users have signed out. All belong
to the user who runs `retrycli serve`, and nobody else may read or change them.
"""

import fcntl
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from retrycli.config.settings import Settings
from retrycli.domain.duration import utc_text
from retrycli.domain.errors import ConfigurationError, InvalidArgument
from retrycli.domain.suggested import command
from retrycli.domain.user import Role, User
from retrycli.operations.wiring import utc_now
from retrycli.system.host import replace_file
from retrycli.system.trust import Weakness, find_weakness, open_private, trusted_users

PREFIX = "rcli_"  # so that secret scanners recognize a token
KEY_BYTES = 32
MOST_ENDED = 100  # sessions of one user from which the user has signed out
MOST_ENDED_OF_ALL = 5_000  # such sessions of all users; their file stays below `LONGEST_FILE`
NAME_DIGITS = 16
LONGEST_FILE = 1 << 20  # a longer file is not read


@dataclass(frozen=True, slots=True)
class Token:
    """A user's token, as the file keeps it."""

    name: str
    role: Role
    sha256: str  # of the token, in hexadecimal
    created_at: str  # RFC 3339, in UTC

    @property
    def user(self) -> User:
        """Return the user to whom the token belongs."""
        return User(self.name, self.role)


def digest(token: str) -> str:
    """Return the SHA-256 of a token, in hexadecimal. A random token of 256 bits needs no slower hash."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def add(settings: Settings, name: str, role: Role, *, now: Callable[[], datetime] = utc_now) -> str:
    """Create a token for a user, write it to the file, and return it. It can't be shown again.

    The file is created if necessary.

    Raises:
        InvalidArgument: the file already has a token for this name.
        ConfigurationError: the file can't be used.
    """
    token = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    file = tokens_file(settings)
    with _locked(file) as like:
        tokens = _read(file) if file.exists() else []
        if any(known.name == name for known in tokens):
            raise InvalidArgument(
                f"{file} already has a token for {name}; remove it with {command('serve', 'token', 'remove', name)}, "
                "or choose another name"
            )
        _write(file, [*tokens, Token(name, role, digest(token), utc_text(now()))], like)
    signing_key(settings)
    return token


def remove(settings: Settings, name: str) -> None:
    """Remove a user's token. Requests with it are refused at once, and its sessions end.

    Raises:
        InvalidArgument: the file has no token for this name.
        ConfigurationError: the file can't be used.
    """
    file = tokens_file(settings)
    with _locked(file) as like:
        tokens = load(settings)
        kept = [token for token in tokens if token.name != name]
        if len(kept) == len(tokens):
            raise InvalidArgument(f"{file} has no token for {name}; see `retrycli serve token list`")
        _write(file, kept, like)


def load(settings: Settings) -> list[Token]:
    """Return all tokens of the file.

    Raises:
        ConfigurationError: the file is missing or broken, or other users may read or change it.
    """
    return _read(tokens_file(settings))


def require_some(settings: Settings) -> None:
    """Check that there is a user who can sign in.

    Raises:
        ConfigurationError: the file can't be used, or has no token.
    """
    if not load(settings):
        raise ConfigurationError(
            f"web.tokens_file: {settings.web.tokens_file} has no token, so nobody could sign in. "
            "Create one with `retrycli serve token add NAME --role operator`"
        )


def tokens_file(settings: Settings) -> Path:
    """Return the path of the tokens' file.

    Raises:
        ConfigurationError: ``web.tokens_file`` is not set.
    """
    if settings.web.tokens_file is None:
        raise ConfigurationError(
            "web.tokens_file is not set. Set it in the section [web] of the configuration file, for example "
            'tokens_file = "/var/lib/retrycli/tokens.json"'
        )
    return settings.web.tokens_file


def signing_key_file(tokens: Path) -> Path:
    """Return the file of the key that signs the cookies, beside the tokens' file."""
    return tokens.with_name(f"{tokens.name}.key")


def signing_key(settings: Settings) -> bytes:
    """Return the key that signs the cookies. Create it if there is none; all workers share it.

    Raises:
        ConfigurationError: the file of the key can't be used.
    """
    tokens = tokens_file(settings)
    file = signing_key_file(tokens)
    if not file.exists():
        with _locked(tokens) as like:
            if not file.exists():  # another worker may have created it meanwhile
                _replace(file, secrets.token_hex(KEY_BYTES), like)
    try:
        key = bytes.fromhex(_text(file))
    except ValueError:  # also if it is not UTF-8
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigurationError(f"{file} is not a signing key. Delete it; all users must then sign in again")
    return key


def ended_sessions_file(tokens: Path) -> Path:
    """Return the file of the sessions from which users have signed out, beside the tokens' file."""
    return tokens.with_name(f"{tokens.name}.signed-out")


def ended_sessions(settings: Settings) -> Mapping[str, tuple[str, int]]:
    """Return the ids of the sessions from which users have signed out, each with a digest of the user's name and its
    end as a Unix time. The digest itself, as an id, means all sessions of this user that do not end later.

    Raises:
        ConfigurationError: the file can't be used.
    """
    tokens = tokens_file(settings)
    if not (file := ended_sessions_file(tokens)).exists():
        return {}
    try:
        return {str(session): (str(name), int(end)) for session, (name, end) in json.loads(_text(file)).items()}
    except (ValueError, TypeError, AttributeError):
        raise ConfigurationError(
            f"{file} is not valid. Delete it and {signing_key_file(tokens)}, and restart the server; all users must "
            "then sign in again"
        ) from None


def has_ended(ended: Mapping[str, tuple[str, int]], session: str, name: str, end: int) -> bool:
    """Return whether a user has signed out of a session, given `ended_sessions`."""
    return session in ended or end <= ended.get(_short(name), ("", 0))[1]


def _short(name: str) -> str:
    return digest(name)[:NAME_DIGITS]  # shorter than some names


def end_session(settings: Settings, session: str, name: str, end: int, *, now: datetime) -> None:
    """Record that a user has signed out of a session, until the session would have ended anyway.

    At most the last `MOST_ENDED` sessions of each user are kept, and at most `MOST_ENDED_OF_ALL`, so that nobody can
    fill the file. If a session is not kept, neither it nor any session of this user that began earlier is valid.

    Raises:
        ConfigurationError: the file can't be used.
    """
    tokens = tokens_file(settings)
    with _locked(tokens) as like:
        ended = {each: of for each, of in ended_sessions(settings).items() if of[1] > now.timestamp()}
        user = _short(name)
        ended[session] = user, end
        kept = sorted((at, each, whose) for each, (whose, at) in ended.items() if each != whose)
        own = [one for one in kept if one[2] == user]
        for at, oldest, whose in {*own[:-MOST_ENDED], *kept[:-MOST_ENDED_OF_ALL]}:
            del ended[oldest]
            ended[whose] = whose, max(at, ended.get(whose, ("", 0))[1])
        _replace(ended_sessions_file(tokens), json.dumps(ended), like)


@contextmanager
def _locked(tokens: Path) -> Iterator[os.stat_result]:
    """Lock the tokens' file against other commands, by a lock file, because a change replaces the file itself. Yield
    the status of the lock file: it is private and belongs to the user who runs `serve`, also if root runs this command.

    Raises:
        ConfigurationError: the lock file can't be opened, or other users may change it or its folder.
    """
    file = tokens.with_name(f"{tokens.name}.lock")
    try:
        if (weakness := find_weakness(file, _trusted(file))) is not None:
            raise _refusal(weakness)  # new files get the lock file's owner and mode
        lock = open_private(file, os.O_RDWR)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "invalid path"
        raise ConfigurationError(
            f"web.tokens_file: can't write in {tokens.parent}: {reason}. Run this as the user who owns the folder"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield os.fstat(lock)  # not of the path, where its owner may put a link to another file meanwhile
    finally:
        os.close(lock)


def _read(file: Path) -> list[Token]:
    try:
        return [_token(value) for value in json.loads(_text(file))["tokens"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigurationError(
            f"web.tokens_file: {file} is not valid. Restore it, or delete it and create tokens with "
            "`retrycli serve token add NAME --role operator`"
        ) from None


def _token(value: Mapping[str, object]) -> Token:
    token = Token(str(value["name"]), Role(str(value["role"])), str(value["sha256"]), str(value.get("created_at")))
    if len(token.sha256) != hashlib.sha256().digest_size * 2:
        raise ValueError("not a SHA-256")
    return token


def _text(file: Path) -> str:
    """Return the content of a private file.

    Raises:
        ConfigurationError: the file can't be read, or other users may read or change it.
    """
    if (weakness := find_weakness(file, _trusted(file))) is not None:
        raise _refusal(weakness)
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigurationError(f"web.tokens_file: other users may read {file}. Run `chmod 600 {file}`")
            return opened.read(LONGEST_FILE).decode()
    except FileNotFoundError:
        raise ConfigurationError(
            f"web.tokens_file: {file} does not exist. Create it with `retrycli serve token add NAME --role operator`"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"web.tokens_file: can't read {file}: {error.strerror}. Run this as the file's owner"
        ) from error


def _refusal(weakness: Weakness) -> ConfigurationError:
    return ConfigurationError(f"web.tokens_file: {weakness}. Fix it: {weakness.remedy}")


def _trusted(file: Path) -> frozenset[int]:
    """Return the users who may change the file. Root may manage the tokens of the user who owns the folder."""
    users = trusted_users()
    with suppress(OSError):
        return users | {file.parent.stat().st_uid} if os.geteuid() == 0 else users
    return users


def _write(file: Path, tokens: Sequence[Token], like: os.stat_result) -> None:
    _replace(file, json.dumps({"tokens": [asdict(token) for token in tokens]}, indent=2) + "\n", like)


def _replace(file: Path, text: str, like: os.stat_result) -> None:
    try:
        replace_file(file, text, like=like)
    except OSError as error:
        raise ConfigurationError(f"web.tokens_file: can't write {file}: {error.strerror}") from error
