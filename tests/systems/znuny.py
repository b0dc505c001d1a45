"""A real Znuny on loopback, from the folder into which ``.ci/znuny`` unpacks it, with its own PostgreSQL.

All workers of a test run share one Znuny, because it takes 15 seconds to create. The first worker starts it, and the
last one to leave stops it. Znuny queues mails and never sends them, because its daemon does not run.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import NullPool, create_engine, text

from tests.environment import free_port
from tests.systems.servers import does, wait_until
from tests.watchdog import make_folder

if TYPE_CHECKING:
    from sqlalchemy import Engine

UNPACKED = Path("/opt/znuny-for-tests")
NEEDS = ("perl", "-MDBD::Pg", "-MStarman", "-MCGI::Emulate::PSGI", "-MREST::Client", "-e", "1")
WORKERS = 3
NOBODY = 65534
SERVICE = "/otrs/nph-genericinterface.pl/Webservice/GenericTicketConnectorREST"
CONFIG = """
package Kernel::Config;
use strict;
use warnings;
use utf8;

sub Load {
    my $Self = shift;
    $Self->{DatabaseDSN} = 'DBI:Pg:dbname=otrs;host=127.0.0.1;port=@PORT@;';
    $Self->{Database} = $Self->{DatabaseUser} = $Self->{DatabasePw} = 'otrs';
    $Self->{DatabaseHost} = '127.0.0.1';
    $Self->{Home} = '@HOME@';
    $Self->{SecureMode} = 1;
    $Self->{FQDN} = 'znuny.test';
    $Self->{CheckMXRecord} = 0;
    $Self->{SendmailModule} = 'Kernel::System::Email::DoNotSendEmail';
    $Self->{LogModule} = 'Kernel::System::Log::File';
    $Self->{'LogModule::LogFile'} = '@HOME@/var/log/znuny.log';
    return 1;
}

use Kernel::Config::Defaults;
use parent qw(Kernel::Config::Defaults);
1;
"""
AGENT, READER = "agent", "reader"
"""Agents: one may write, the other may only read. A password is the name followed by ``-password``."""
CUSTOMER = "customer@customer.test"
SEED = """
use strict;
use warnings;
use lib '@HOME@', '@HOME@/Kernel/cpan-lib';
use Kernel::System::ObjectManager;
local $Kernel::OM = Kernel::System::ObjectManager->new('Kernel::System::Log' => { LogPrefix => 'seed' });
sub get { return $Kernel::OM->Get("Kernel::System::$_[0]") }
my %valid = (ValidID => 1, UserID => 1, ChangeUserID => 1);

get('Cache')->Configure(CacheInMemory => 1);
get('SysConfig')->ConfigurationXML2DB(UserID => 1, Force => 1) or die;
my %deployed = get('SysConfig')->ConfigurationDeploy(Comments => 'tests', AllSettings => 1, UserID => 1, Force => 1);
die if !$deployed{Success};
$Kernel::OM->ObjectsDiscard();  # they know the settings before

my $service = get('Main')->FileRead(Location => '@HOME@/var/webservices/examples/GenericTicketConnectorREST.yml');
get('GenericInterface::Webservice')->WebserviceAdd(
    %valid, Name => 'GenericTicketConnectorREST', Config => get('YAML')->Load(Data => $$service)) or die;
my $group = get('Group')->GroupLookup(Group => 'users');
my %permissions = (agent => 'rw', reader => 'ro');
for my $name (sort keys %permissions) {
    my $id = get('User')->UserAdd(
        %valid, UserLogin => $name, UserFirstname => 'Anna', UserLastname => 'Agent',
        UserPw => "$name-password", UserEmail => "$name\\@desk.test") or die;
    get('Group')->PermissionGroupUserAdd(
        UID => $id, GID => $group, UserID => 1, Permission => { $permissions{$name} => 1 }) or die;
}
get('SystemAddress')->SystemAddressUpdate(
    %valid, ID => 1, Name => 'desk@znuny.test', Realname => 'Support Desk', QueueID => 1) or die;
my $nobody = get('SystemAddress')->SystemAddressAdd(
    %valid, Name => 'not an address', Realname => 'Support Desk', QueueID => 1) or die;
my %queue = (%valid, GroupID => $group, SalutationID => 1, SignatureID => 1, FollowUpID => 1);
get('Queue')->QueueAdd(%queue, Name => 'Support', SystemAddressID => 1) or die;
get('Queue')->QueueAdd(%queue, Name => 'Nowhere', SystemAddressID => $nobody) or die;
get('CustomerUser')->CustomerUserAdd(
    %valid, Source => 'CustomerUser', UserLogin => 'customer', UserFirstname => 'Carl', UserLastname => 'Customer',
    UserEmail => 'customer@customer.test', UserCustomerID => 'K', UserPassword => 'x') or die;
my %field = (%valid, FieldOrder => 1, FieldType => 'Text', Config => { DefaultValue => '' });
get('DynamicField')->DynamicFieldAdd(%field, Name => $_->[0], Label => $_->[0], ObjectType => $_->[1]) or die
    for ['DeliveryKey', 'Article'], ['TicketKey', 'Ticket'];
my @merged = map {
    get('Ticket')->TicketCreate(
        Title => 'Printer', Queue => 'Support', Lock => 'unlock', Priority => '3 normal', State => 'open',
        CustomerUser => 'customer', OwnerID => 1, UserID => 1) or die
} 1 .. 2;
get('Ticket')->TicketMerge(MainTicketID => $merged[0], MergeTicketID => $merged[1], UserID => 1) or die;
print "merged=$merged[1]";
"""


@dataclass(frozen=True)
class Znuny:
    folder: str
    port: int
    database_port: int
    merged: int
    """A ticket that has been merged into another."""

    @property
    def home(self) -> Path:
        """Return the folder of Znuny's programs."""
        return Path(self.folder, "otrs")

    @property
    def root(self) -> str:
        """Return the server's URL without a path."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Return the web service's URL, for ``gateway.base_url``."""
        return self.root + SERVICE

    def as_user(self, name: str = AGENT) -> Api:
        """Return the web service for one agent."""
        return Api(self.url, {"UserLogin": name, "Password": f"{name}-password"})

    def open_ticket(self, queue: str = "Support") -> int:
        """Open a ticket with one article of the customer; return its id."""
        ticket = {
            "Title": "Printer does not print",
            "Queue": queue,
            "Lock": "unlock",
            "Priority": "3 normal",
            "State": "open",
            "CustomerUser": "customer",
        }
        article = {
            "CommunicationChannel": "Phone",
            "SenderType": "customer",
            "Subject": "Printer",
            "Body": "It does not print.",
            "ContentType": "text/plain; charset=utf-8",
        }
        made = self.as_user().ask("POST", "/Ticket", Ticket=ticket, Article=article)
        return int(made["TicketID"])

    def said(self, ticket: int) -> list[dict[str, Any]]:
        """Read the articles that agents have added to a ticket, with files and dynamic fields."""
        everything = {"AllArticles": 1, "DynamicFields": 1, "Attachments": 1}
        [found] = self.as_user().ask("GET", f"/Ticket/{ticket}", **everything)["Ticket"]
        return [article for article in found.get("Article", []) if article["SenderType"] == "agent"]

    def queued_for(self, ticket: int) -> set[str]:
        """Read the recipients of the mails that are queued for a ticket's articles by agents."""
        articles = {each["ArticleID"] for each in self.said(ticket)}
        asked = text("SELECT article_id, recipient FROM mail_queue")
        with self._database.connect() as connection:
            rows = connection.execute(asked).all()
        return {name for article, recipient in rows if article in articles for name in recipient.split(",")}

    def forget_sessions(self) -> None:
        """Delete all sessions, as if they had expired."""
        with self._database.begin() as connection:
            connection.execute(text("DELETE FROM sessions"))

    @cached_property
    def _database(self) -> Engine:
        return create_engine(f"postgresql+psycopg://otrs@127.0.0.1:{self.database_port}/otrs", poolclass=NullPool)


@dataclass(frozen=True)
class Api:
    """The web service for one user."""

    url: str
    account: Mapping[str, str]

    def answer(self, method: str, path: str, **content: object) -> httpx.Response:
        """Send a request and return its answer, even an error."""
        asked = {**self.account, **content}
        if method == "GET":
            return httpx.get(self.url + path, params={name: str(each) for name, each in asked.items()}, timeout=60)
        return httpx.request(method, self.url + path, json=asked, timeout=60)

    def ask(self, method: str, path: str, **content: object) -> dict[str, Any]:
        """Send a request that must succeed."""
        found: dict[str, Any] = self.answer(method, path, **content).raise_for_status().json()
        assert "Error" not in found, found
        return found


@contextmanager
def znuny(shared: Path) -> Iterator[Znuny]:
    """Use this test run's Znuny for a `with` block.

    Args:
        shared: a folder that all workers share.
    """
    _skip_where_missing()
    state = shared / "znuny.json"
    with (shared / "znuny-users").open("w") as users:
        with _at_the_door(shared):
            if not state.exists():
                state.write_text(json.dumps(asdict(_start())))
            fcntl.flock(users, fcntl.LOCK_SH)
            found = Znuny(**json.loads(state.read_text()))
        try:
            yield found
        finally:
            with _at_the_door(shared):
                if _is_the_last(users):
                    state.unlink()
                    _stop(Path(found.folder))


@contextmanager
def _at_the_door(shared: Path) -> Iterator[None]:
    """Lock the shared state while a worker joins or leaves."""
    with (shared / "znuny-door").open("w") as door:
        fcntl.flock(door, fcntl.LOCK_EX)
        yield


def _is_the_last(users: IO[str]) -> bool:
    """Return whether no other worker uses Znuny. A killed worker has lost its lock, so it does not count."""
    fcntl.flock(users, fcntl.LOCK_UN)
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _skip_where_missing() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can start a Znuny")
    if not (UNPACKED / "usr/share/otrs").exists() or not does(*NEEDS):
        pytest.skip("Znuny is not installed: .ci/znuny unpacks it")
    if _postgresql() is None:
        pytest.skip("Znuny's database is not installed: apt-get install postgresql")


def _postgresql() -> Path | None:
    """Find the programs of the newest PostgreSQL that Debian's packages installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda each: float(each.parts[-3]))
    return found[-1].parent if found else None


def _start() -> Znuny:
    # Only their owner may read pytest's folders, and Znuny runs as another user.
    folder = make_folder("znuny")
    folder.chmod(0o755)
    home = folder / "otrs"
    database_port, port = free_port(), free_port()
    try:
        _start_database(folder, database_port)
        _copy(home, database_port)
        seeded = _as_nobody(["perl", str(home / "seed.pl")], home)
        server = ["starman", "--listen", f"127.0.0.1:{port}", "--workers", str(WORKERS)]
        _as_nobody([*server, "--daemonize", "--pid", str(home / "var/run/pid"), "bin/cgi-bin/app.psgi"], home)
        wait_until(lambda: _answers(port))
    except BaseException:
        _stop(folder)
        raise
    return Znuny(str(folder), port, database_port, int(seeded.rpartition("merged=")[2]))


def _stop(folder: Path) -> None:
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((folder / "otrs/var/run/pid").read_text()), signal.SIGTERM)
    if (folder / "pg/data/postmaster.pid").exists():
        _as_postgres(["pg_ctl", "-D", str(folder / "pg/data"), "-m", "immediate", "stop"])
    shutil.rmtree(folder, ignore_errors=True)


def _start_database(folder: Path, port: int) -> None:
    data = folder / "pg/data"
    (folder / "pg").mkdir()
    shutil.chown(folder / "pg", "postgres")
    _as_postgres(["initdb", "-D", str(data), "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"])
    quick = "fsync=off", "synchronous_commit=off", "full_page_writes=off"
    settings = "listen_addresses=127.0.0.1", f"unix_socket_directories={folder / 'pg'}", f"port={port}", *quick
    options = " ".join(f"-c {setting}" for setting in settings)
    _as_postgres(["pg_ctl", "-w", "-D", str(data), "-l", str(folder / "pg/log"), "-o", options, "start"])


def _copy(home: Path, database_port: int) -> None:
    """Copy Znuny without Debian's links to other folders, and create its tables."""
    package = UNPACKED / "usr/share/otrs"
    shutil.copytree(package, home, symlinks=True)
    for name in ("var", "Kernel/Config/Backups", "Kernel/Config/Files", "Kernel/Config.pm"):
        (home / name).unlink()
    shutil.copytree(UNPACKED / "var/lib/otrs", home / "var", symlinks=True)
    for name in ("spool", "run"):
        (home / "var" / name).unlink()
    for name in ("spool", "run", "log"):
        (home / "var" / name).mkdir(exist_ok=True)
    for name in ("Backups", "Files"):
        (home / "Kernel/Config" / name).symlink_to(home / "var/Config" / name)
    for name, content in (("Kernel/Config.pm", CONFIG), ("seed.pl", SEED)):
        (home / name).write_text(content.replace("@PORT@", str(database_port)).replace("@HOME@", str(home)))
    _run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(home)])
    psql = ["psql", "-X", "-q", "-h", "127.0.0.1", "-p", str(database_port), "-v", "ON_ERROR_STOP=1"]
    _as_postgres([*psql, "-c", "CREATE ROLE otrs LOGIN", "-c", "CREATE DATABASE otrs OWNER otrs"])
    for name in ("schema", "initial_insert", "schema-post"):
        _as_postgres([*psql, "-U", "otrs", "-f", str(home / f"scripts/database/{name}.postgresql.sql"), "otrs"])


def _answers(port: int) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/otrs/index.pl", timeout=30).status_code == httpx.codes.OK
    return False


def _as_nobody(command: Sequence[str], home: Path) -> str:
    return _run(command, user=NOBODY, home=home)


def _as_postgres(command: Sequence[str]) -> None:
    programs = _postgresql()
    assert programs is not None
    _run([str(programs / command[0]), *command[1:]], user="postgres")


def _run(command: Sequence[str], *, user: int | str | None = None, home: Path = Path("/")) -> str:
    """Run a command; return its output.

    The output goes to a file, because a server that the command starts would keep a pipe open.
    """
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            command,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            cwd=home,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            check=False,
        )
        output.seek(0)
        said = output.read().decode(errors="replace")
    assert done.returncode == 0, said
    return said
