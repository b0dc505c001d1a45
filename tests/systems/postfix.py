"""A real Postfix: a private instance on loopback, with its own folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.command import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage

POSTFIX = shutil.which("postfix", path="/usr/sbin:/usr/bin:/usr/local/sbin")
needs_postfix = [
    pytest.mark.skipif(POSTFIX is None, reason="Postfix is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a Postfix"),
]

SERVICES = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
virtual unix - n n - - virtual
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""
SETTINGS = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = mx.test
mydestination =
inet_interfaces = loopback-only
inet_protocols = ipv4
smtp_dns_support_level = disabled
smtpd_relay_restrictions = reject_unauth_destination
virtual_mailbox_domains = x.test
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = static:ops/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
alias_maps =
local_recipient_maps =
"""


@dataclass(frozen=True)
class Postfix:
    """A mail server that stores mail for x.test."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        """Return the apprise URL that sends to this server."""
        return f"mailto://127.0.0.1:{self.port}?from=retrycli@x.test&to=ops@x.test&mode=insecure"

    @property
    def mails(self) -> list[EmailMessage]:
        files = sorted(self.folder.glob("mail/ops/new/*"))
        return [message_from_bytes(path.read_bytes(), policy=default) for path in files]


@contextmanager
def running_postfix(more: str = "") -> Iterator[Postfix]:
    """Run a Postfix for a `with` block. Its folder is outside pytest's folders, which only their owner may read.

    Args:
        more: settings in addition to `SETTINGS`.
    """
    assert POSTFIX is not None
    with tempfile.TemporaryDirectory(prefix="postfix-") as name, socket.socket() as free:
        folder = Path(name)
        folder.chmod(0o755)
        for each in ("etc", "queue", "data", "mail"):
            (folder / each).mkdir()
        shutil.chown(folder / "data", "postfix")
        shutil.chown(folder / "mail", 65534, 65534)
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
        free.close()
        (folder / "etc" / "main.cf").write_text(SETTINGS.format(folder=folder) + more, encoding="utf-8")
        (folder / "etc" / "master.cf").write_text(SERVICES.format(port=port), encoding="utf-8")
        control = (POSTFIX, "-c", str(folder / "etc"))
        subprocess.run([*control, "start"], check=True, capture_output=True)
        try:
            wait_until(lambda: answers(port))
            yield Postfix(folder, port)
        finally:
            subprocess.run([*control, "stop"], check=False, capture_output=True)


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
        return connection.recv(3) == b"220"
    return False
