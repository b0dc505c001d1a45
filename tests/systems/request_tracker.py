"""A real Request Tracker on loopback, from Debian's packages: a SQLite file, and a file for its mails."""

from __future__ import annotations

import json
import mailbox
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.environment import free_port
from tests.systems.servers import does, running, says, wait_until

if TYPE_CHECKING:
    from email.message import EmailMessage

SETUP = shutil.which("rt-setup-database-5", path="/usr/sbin:/usr/bin")
SERVER = Path("/usr/share/request-tracker5/libexec/rt-server")
NEEDS = ("perl", "-MDBD::SQLite", "-MPlack::Handler::Starlet", "-e", "1")
WORKERS = 4
SETTINGS = """
Set($rtname, 'rt.test');
Set($Organization, 'rt.test');
Set($CorrespondAddress, 'support@rt.test');
Set($CommentAddress, 'notes@rt.test');
Set($DatabaseType, 'SQLite');
Set($DatabaseName, '@FOLDER@/rt.sqlite');
Set($WebDomain, '127.0.0.1');
Set($WebPort, @PORT@);
Set($WebPath, '');
Set($Timezone, 'UTC');
Set($LogToSyslog, undef);
Set($LogToSTDERR, 'warning');
# In the place of a mail server: it takes as long as a file says, and takes nothing where that says so.
Set($MailCommand, sub {
    my $mail = shift;
    if (open my $told, '<', '@FOLDER@/post-office') {
        my ($how) = <$told>;
        close $told;
        return 0 if $how eq 'refuses';
        sleep $how;
    }
    open my $box, '>>', '@FOLDER@/mails' or return 0;
    flock $box, 2;
    print {$box} "From rt\\@rt.test " . gmtime() . "\\n" . $mail->as_string . "\\n\\n";
    return close $box;
});
$RT::MasonDataDir = '@FOLDER@/mason';
$RT::MasonSessionDir = '@FOLDER@/sessions';
$RT::VarPath = '@FOLDER@';
1;
"""
AGENT, REPLYONLY, BLIND, DISABLED = "agent", "replyonly", "blind", "disabled"
"""Users. One may not write notes, one may not see the custom field, and one is disabled."""
CUSTOMER = "customer@example.org"
WITH_FIELD, WITHOUT_FIELD = "General", "Plain"
"""Queues: one has the custom field that an administrator may create, and the other does not."""
SEED = """
use strict;
use warnings;
use JSON;
use lib '/usr/share/request-tracker5/lib';
use RT -init;

sub done { my ($ok, @rest) = @_; die "$rest[0]\\n" unless $ok; return @rest }
sub made {
    my ($class, %values) = @_;
    my $new = "RT::$class"->new(RT->SystemUser);
    done($new->Create(%values));
    return $new;
}

made('Queue', Name => 'Plain');
my @queues = map { my $queue = RT::Queue->new(RT->SystemUser); $queue->Load($_); $queue } qw(General Plain);
my $field = made('CustomField',
    Name => 'DeliveryKey', Type => 'FreeformSingle', LookupType => 'RT::Queue-RT::Ticket-RT::Transaction');
done($field->AddToObject($queues[0]));

my @replies = qw(SeeQueue ShowTicket CreateTicket ReplyToTicket ShowOutgoingEmail);
my @notes = qw(ShowTicketComments CommentOnTicket ModifyTicket);
my @fields = qw(SeeCustomField ModifyCustomField);
my %rights = (
    agent => [@replies, @notes, @fields],
    replyonly => [@replies, @fields],
    blind => [@replies, @notes],
    disabled => [@replies],
);
my %tokens;
for my $name (sort keys %rights) {
    my $user = made('User', Name => $name, EmailAddress => "$name\\@rt.test", Privileged => 1);
    for my $queue (@queues) {
        done($user->PrincipalObj->GrantRight(Object => $queue, Right => $_)) for @{ $rights{$name} };
    }
    my $token = RT::AuthToken->new(RT->SystemUser);
    $tokens{$name} = (done($token->Create(Owner => $user->id, Description => 'tests')))[1];
    done($user->SetDisabled(1)) if $name eq 'disabled';
}
made('User', Name => 'customer@example.org', EmailAddress => 'customer@example.org', Privileged => 0);
my $everyone = RT::Group->new(RT->SystemUser);
$everyone->LoadSystemInternalGroup('Everyone');
for my $queue (@queues) {
    done($everyone->PrincipalObj->GrantRight(Object => $queue, Right => $_)) for qw(CreateTicket ReplyToTicket);
}
# The agent is told of all that is said, notes too, by RT's own scrips.
for my $queue (@queues) {
    done($queue->AddWatcher(Type => 'AdminCc', Email => 'agents@rt.test'));
}
print encode_json(\\%tokens);
"""


@dataclass(frozen=True)
class RequestTracker:
    url: str
    folder: Path
    tokens: Mapping[str, str]

    def as_user(self, name: str) -> httpx.Client:
        """Return an API client for one user."""
        headers = {"Authorization": f"token {self.tokens[name]}"}
        return httpx.Client(base_url=f"{self.url}/REST/2.0", headers=headers, timeout=60)

    def open_ticket(self, queue: str = WITH_FIELD) -> int:
        """Open a ticket with the customer as requestor, who is thus mailed all replies."""
        with self.as_user(AGENT) as api:
            answer = api.post("/ticket", json={"Queue": queue, "Subject": "Printer", "Requestor": CUSTOMER})
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def post_office(self, how: str | float) -> None:
        """Make RT's mail command take ``how`` seconds for each mail, or fail if ``how`` is ``refuses``."""
        (self.folder / "post-office").write_text(f"{how}")

    def said(self, ticket: int, user: str = AGENT) -> list[dict[str, Any]]:
        """Return the replies and notes of a ticket that a user may see."""
        with self.as_user(user) as api:
            page: dict[str, Any] = {"next_page": f"/ticket/{ticket}/history?fields=Type,Object&per_page=100"}
            found: list[dict[str, Any]] = []
            while "next_page" in page:
                page = api.get(page["next_page"]).raise_for_status().json()
                found += page["items"]
            return [entry for entry in found if entry["Type"] in {"Correspond", "Comment"}]

    def content(self, transaction: str | int, user: str = AGENT) -> list[dict[str, Any]]:
        """Return the parts of a reply or note, each with its ``Content`` in base64."""
        with self.as_user(user) as api:
            parts = api.get(f"/transaction/{transaction}/attachments").raise_for_status().json()["items"]
            return [api.get(f"/attachment/{part['id']}").raise_for_status().json() for part in parts]

    @property
    def mails(self) -> list[EmailMessage]:
        """Return all mails that RT sent."""
        box = mailbox.mbox(self.folder / "mails", create=True)
        with_lines = [message_from_bytes(box.get_bytes(key), policy=default) for key in box.iterkeys()]
        box.close()
        return with_lines


@contextmanager
def request_tracker(folder: Path) -> Iterator[RequestTracker]:
    """Provide a fresh Request Tracker in an empty folder for a `with` block."""
    if SETUP is None or not SERVER.exists() or not does(*NEEDS):
        packages = "dbconfig-no-thanks rt5-db-sqlite request-tracker5 rt5-standalone"
        pytest.skip(f"Request Tracker is not installed: apt-get install {packages}")
    port = free_port()
    for name in ("own-settings-only", "mason", "sessions"):
        (folder / name).mkdir()
    settings = SETTINGS.replace("@FOLDER@", str(folder)).replace("@PORT@", str(port))
    (folder / "RT_SiteConfig.pm").write_text(settings)
    (folder / "seed.pl").write_text(SEED)
    env = {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "RT_SITE_CONFIG": str(folder / "RT_SiteConfig.pm"),
        "RT_SITE_CONFIG_DIR": str(folder / "own-settings-only"),
    }
    _run([SETUP, "--action", "init", "--skip-create"], env)
    tokens = json.loads(_run(["perl", str(folder / "seed.pl")], env))
    url, log = f"http://127.0.0.1:{port}", folder / "server.log"
    server = [str(SERVER), "--server", "Starlet", "--max-workers", str(WORKERS), "--host", "127.0.0.1"]
    with running([*server, "--port", str(port)], log, cwd=folder, env=env) as process:
        wait_until(lambda: says(url + "/REST/2.0/rt", 401, process, log))
        yield RequestTracker(url, folder, tokens)


def _run(command: list[str], env: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
