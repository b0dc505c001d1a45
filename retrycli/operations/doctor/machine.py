"""Check the settings, the files and functions that they name, the disk and the lock."""

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from shlex import quote

from retrycli.config.loader import SECRETS
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.sanitize import masked_url
from retrycli.operations import reliance
from retrycli.operations.doctor.context import Context, Finding, failure, of_error, ok, warning
from retrycli.operations.tokens import signing_key_file
from retrycli.operations.wiring import STATE_FOLDER, lock_path
from retrycli.store.write_check import lack_of_room
from retrycli.system import crontab, process, python_call
from retrycli.system.host import NETWORK_FILE_SYSTEMS, file_system_of, others_may_read, owner_of
from retrycli.system.pass_lock import OWN_STATE, PassLock
from retrycli.system.trust import (
    ROOT,
    Weakness,
    find_weakness,
    group_readers,
    others_may_have_linked,
    require_chosen_group,
    require_trust,
    trusted_users,
    user_name,
    user_number,
)

MARGIN = timedelta(seconds=90)  # time for a pass to record results after its deadline and its last request
RUN_AS_OWNER = "run doctor as the user who runs the passes"


def settings(context: Context) -> Iterator[Finding]:
    """Check where the settings come from, and that a pass started by cron would find them."""
    from_environment = [key for key, source in context.loaded.sources.items() if source.startswith("environment")]
    where = context.settings.file
    if where is None:
        yield warning(
            "settings",
            "no configuration file: settings come only from defaults and the environment, which cron does not pass on",
            "run `retrycli init` to create one",
        )
    elif from_environment:
        yield warning(
            "settings",
            f"from {where}, but the environment sets {', '.join(from_environment)}, which cron does not pass on",
            f"set these keys in {where}",
        )
    else:
        yield ok("settings", f"from {where}")


def files(context: Context) -> Iterator[Finding]:
    """Check who else can read secrets, or change files that a pass relies on."""
    yield from [*_readable_secrets(context), *_weak_files(context), *_shared_socket(context)] or [
        ok("files", "no other user can read a secret or change anything that passes rely on")
    ]


def _shared_socket(context: Context) -> Iterator[Finding]:
    """Report a socket on which a proxy names the users, if other users in this process's group could open it."""
    web = context.settings.web
    if web.user_header is not None and web.uds is not None:
        try:
            with suppress(OSError):
                require_chosen_group(web.uds, "web.user_header")
        except ConfigurationError as error:
            yield of_error("files", str(error))


def _readable_secrets(context: Context) -> Iterator[Finding]:
    for path in sorted(_secret_files(context)):
        if others_may_read(path):
            yield failure(
                "files", f"{path} contains a secret, but every user can read it", f"`chmod o-rwx {quote(str(path))}`"
            )
        elif group := group_readers(path, _trusted_users(context)):
            yield warning(
                "files",
                f"{path} contains a secret, but the group {group} can read it",
                f"`chmod g-rwx {quote(str(path))}`, unless the group should be able to read it",
            )


def _weak_files(context: Context) -> Iterator[Finding]:
    """Report each path that lets another user change what a pass relies on; a folder of several files only once."""
    users, seen = _trusted_users(context), set[Path]()
    in_state_folder = context.settings.run.lock_file is None and context.settings.database.file is None
    for path, is_shared in _relied_on(context):
        weakness = find_weakness(path, users)
        if weakness is None or weakness.place in seen:
            continue
        seen.add(weakness.place)
        if in_state_folder and path == lock_path(context.settings):
            yield warning(
                "files",
                f"{weakness}, so another user could acquire the lock {path.name} there and stop all passes",
                f"as root: `install -d -m 700 -o {quote(_pass_maker(context))} {STATE_FOLDER}`",
            )
        else:
            words = str(weakness) if weakness.place == path else f"{weakness}, which exposes {path}"
            level = warning if is_shared and not weakness.is_open_to_all else failure
            yield level("files", words, _remedy(weakness, path, is_shared=is_shared))


def _remedy(weakness: Weakness, path: Path, *, is_shared: bool) -> str:
    """Return a remedy that does not lock the application or another user out of their own files."""
    if weakness.owner is None:
        return weakness.remedy
    if weakness.place == path:
        return RUN_AS_OWNER if is_shared else weakness.remedy
    return f"{weakness.remedy}, or {RUN_AS_OWNER}"


def _relied_on(context: Context) -> Iterator[tuple[Path, bool]]:
    """Yield the files and folders that a pass relies on, each with True if another user may need to write to it.

    The application writes its attachments and its database, and by default the lock is beside a SQLite file. If the
    application runs as another user, its access is reported as a warning, not as a failure.
    """
    own = {path for path in (context.settings.file, context.settings.web.uds) if path is not None}
    secret = sorted(_secret_files(context) | own)
    yield from ((file, False) for file in (*secret, *reliance.named_in(context.settings), *context.program))
    folders = [gateway.attachments_dir for gateway in context.settings.gateway.all.values()]
    shared = (*folders, context.settings.database.file, lock_path(context.settings))
    yield from ((file, True) for file in shared if file is not None)


def _trusted_users(context: Context) -> frozenset[int]:
    """Return root, the current user and, if root runs doctor, the users who may run the passes."""
    return trusted_users().union(_pass_makers(context) if context.host.uid == 0 else ())


def _pass_makers(context: Context) -> Iterator[int]:
    """Yield the users who may run the passes: of retrycli's cron line, then the owners of the database and settings."""
    for block in crontab.blocks(context.host, context.settings.file):
        if (number := user_number(block.user)) is not None:
            yield number
    for path in (context.settings.database.file, context.settings.file):
        if path is not None:
            with suppress(OSError):
                yield path.stat().st_uid


def _pass_maker(context: Context) -> str:
    """Return who probably runs the passes: the current user or, if that is root, another one of `_pass_makers`."""
    others = _pass_makers(context) if context.host.uid == 0 else ()
    return next((user_name(user) for user in others if user != ROOT), context.host.login)


def _secret_files(context: Context) -> set[Path]:
    """Return the files of secrets, and, if they exist, the console's tokens and the key that signs its cookies."""
    url, tokens = context.settings.database.url, context.settings.web.tokens_file
    secrets = {*SECRETS} - {"gateway.username"} - ({"database.url"} if masked_url(url) == url else set())
    sources = (context.loaded.sources.get(key, "") for key in secrets)
    files = {Path(source.removeprefix("file ")).absolute() for source in sources if source.startswith("file ")}
    own = () if tokens is None else (tokens.absolute(), signing_key_file(tokens.absolute()))
    return files.union(file for file in own if file.exists())


def file_system(context: Context) -> Iterator[Finding]:
    """Check that the database and the lock are not on a network file system, whose locks are unreliable."""
    mounts = ""
    with suppress(OSError):
        mounts = (context.host.root / "proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    database, lock = context.settings.database.file, lock_path(context.settings)
    for thing, path, remedy in (
        ("the database", database, "move it to a local disk, or use PostgreSQL"),
        ("the lock", lock, "set run.lock_file to a path on a local disk"),
    ):
        kind = None if path is None else file_system_of(path, mounts)
        if kind in NETWORK_FILE_SYSTEMS:
            yield failure(
                "file system",
                f"{thing} {path} is on a network file system ({kind}), where locks are unreliable",
                remedy,
            )
        elif path == database and kind is not None:
            yield ok("file system", f"{thing} is on {kind}")


def disk(context: Context) -> Iterator[Finding]:
    """Check for a full disk. On a full disk nothing is delivered, and some checks of the database can't run."""
    if (lack := lack_of_disk(context)) is not None:
        yield of_error("disk", lack)


def lack_of_disk(context: Context) -> str | None:
    """Return the problem if the database's disk is too full for any delivery; None also if its space is unknown."""
    with suppress(OSError):
        return lack_of_room(context.settings.database.file)
    return None


def file_descriptors(context: Context) -> Iterator[Finding]:
    """Check that this process may open as many files as the concurrency needs. The limit under cron may differ.

    Raises:
        ConfigurationError: the process may not open enough files for a single request.
    """
    wanted = context.settings.run.concurrency
    if (possible := process.affordable(wanted)) < wanted:
        yield warning(
            "file descriptors",
            f"the limit allows only {possible} concurrent requests, but run.concurrency is {wanted}",
            process.RAISE,
        )


def lock(context: Context) -> Iterator[Finding]:
    """Check the lock, and report its holder. Create no file, which passes could not open if root runs doctor."""
    path = lock_path(context.settings)
    needed = path if os.access(path, os.F_OK) else path.parent
    if path.parent.match(str(OWN_STATE)):  # the first pass creates this folder
        needed = next(folder for folder in (path, *path.parents) if os.access(folder, os.F_OK))
    if not os.access(needed, os.R_OK | os.W_OK):
        yield failure(
            "lock",
            f"{needed} is not writable, so passes can't use the lock {path}",
            "change its owner or mode, or set run.lock_file to another path",
        )
        return
    yield from _foreign_lock(context, path)
    holder = PassLock(path).holder()
    if holder is None:
        yield ok("lock", f"{path} is free")
        return
    words = f"{path} is held by {holder.in_words(context.now())}"
    longest = timedelta(minutes=context.settings.run.deadline_minutes) + context.settings.gateway.longest + MARGIN
    if holder.since is not None and context.now() - holder.since > longest:
        yield warning(
            "lock",
            f"{words}, longer than a pass may take",
            f"see what it is doing (`ps {holder.pid}`); if it hangs, kill it",
        )
    else:
        yield ok("lock", words)


def outputs(context: Context) -> Iterator[Finding]:
    """Check that the log, the metrics file and the HTML report can be written."""
    if (log := context.settings.logging.file) is not None:
        yield _log_file(log)
    for key, path, package, extra in (
        ("metrics.path", context.settings.metrics.path, "prometheus_client", "metrics"),
        ("report.path", context.settings.report.path, "jinja2", "report"),
    ):
        if path is None:
            continue
        folder = path.absolute().parent
        if not folder.is_dir():
            yield failure(
                "outputs",
                f"{key} needs the folder {folder}, which does not exist",
                f"`mkdir {quote(str(folder))}`, or fix {key}",
            )
        elif not os.access(folder, os.W_OK | os.X_OK):
            yield failure(
                "outputs",
                f"{key} is in {folder}, which is not writable",
                f"change its owner or mode, or set {key} to another path",
            )
        elif path.is_dir():
            yield failure("outputs", f"{key} names {path}, which is a folder", f"set {key} to the path of a file")
        elif find_spec(package) is None:
            yield failure("outputs", f"{key} needs {package}, which is not installed", f"`{process.install(extra)}`")
        else:
            yield ok("outputs", f"{key} can be written: {path}")


def _log_file(path: Path) -> Finding:
    needed = path if os.path.lexists(path) else path.absolute().parent
    if needed.is_symlink() or not (needed.is_file() or (needed.is_dir() and needed != path)):
        return failure(
            "outputs",
            f"logging.file must be a regular file (not a symbolic link) in an existing folder: {path}",
            "fix logging.file",
        )
    if not os.access(needed, os.W_OK):
        return failure(
            "outputs",
            f"logging.file: {needed} is not writable",
            "change its owner or mode, or set logging.file to another path",
        )
    if needed == path and others_may_have_linked(path.stat(), path.absolute().parent.stat()):
        return failure(
            "outputs",
            f"logging.file: {path} has more than one hard link, and other users can create files in its folder",
            f"`chmod go-w {quote(str(path.absolute().parent))}`, then delete the log file",
        )
    return ok("outputs", f"logging.file can be written: {path}")


def _foreign_lock(context: Context, path: Path) -> Iterator[Finding]:
    """Warn if the lock file and the database have different owners, for example after a pass by another user."""
    file = context.settings.database.file
    owner, database = owner_of(path), file and owner_of(file)
    if owner is not None and database is not None and owner != database:
        yield warning(
            "lock",
            f"{path} belongs to {owner}, but the database belongs to {database}, whose passes may be unable to open "
            "the lock",
            f"`chown -h {database} {quote(str(path))}`; also run retrycli's commands as {database}",
        )


def functions(context: Context) -> Iterator[Finding]:
    """Check that each function can be called. Code that another user can change does not run, wherever it is found."""
    for call in context.settings.calls:
        try:
            for file in python_call.files_of(call.name, call.folder):
                require_trust(file, call.key, may_be_missing=True)  # then `load` reports it
            python_call.load(*call)
        except ConfigurationError as error:
            yield of_error("function", str(error))
        else:
            yield ok("function", f"{call.key}: {call.name} can be called")
