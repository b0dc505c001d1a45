"""Check who receives how many copies of a mail, with a real Postfix and with smtp-sinks that disconnect."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
from collections import Counter
from contextlib import contextmanager, suppress
from email import message_from_bytes
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.application import Application
from tests.cli.command import Cli, wait_until
from tests.gateway.conftest import certificate
from tests.systems.postfix import Postfix, answers, needs_postfix, running_postfix

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["certificate"]

SINK = shutil.which("smtp-sink", path="/usr/sbin:/usr/bin:/usr/local/sbin")
pytestmark = [
    pytest.mark.long_except(
        "test_a_ticket_arrives_complete",
        "test_of_three_recipients_one_is_refused_and_none_gets_it_twice",
        "test_an_internal_note_reaches_only_the_team",
    ),
    pytest.mark.slow,
    *needs_postfix,
    pytest.mark.skipif(SINK is None, reason="smtp-sink is not installed"),
]

MORE = """\
smtpd_recipient_restrictions =
    check_recipient_access inline:{{bounce@x.test=550 5.1.1 no such mailbox}, {later@x.test=450 4.2.0 mailbox busy}},
    reject_unauth_destination
message_size_limit = 100000
virtual_mailbox_limit = 0
smtputf8_enable = yes
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Postfix]:
    """Provide one Postfix for all tests: it takes a second to start."""
    with running_postfix(MORE) as started:
        yield started


@pytest.fixture
def postfix(shared: Postfix) -> Postfix:
    """Provide the same Postfix with an empty maildir."""
    for path in shared.folder.glob("mail/ops/new/*"):
        path.unlink()
    return shared


@pytest.fixture
def application(tmp_path: Path) -> Application:
    """Provide an application whose table has a column for mail threads."""
    made = Application(f"sqlite:///{tmp_path / 'agent.db'}")
    made.execute("ALTER TABLE pending_messages ADD COLUMN in_reply_to TEXT")
    return made


def by_mail(application: Application, folder: Path, port: int, **gateway: str) -> Cli:
    """Provide the command, configured to deliver to a mail server."""
    settings = {
        "kind": "smtp",
        "base_url": f"smtp://127.0.0.1:{port}",
        "sender": "Support <support@desk.test>",
        "starttls": "false",
        **gateway,
    }
    variables = {f"RETRYCLI_GATEWAY__{name.upper()}": value for name, value in settings.items()}
    return Cli(folder).having({"RETRYCLI_DATABASE__URL": application.url, **variables})


def again(cli: Cli, message_id: int) -> None:
    """Retry a message manually."""
    assert cli("retry", str(message_id)).returncode in {0, 3}


def arrived(postfix: Postfix, number: int) -> Counter[str]:
    """Count the mails of each recipient, after this number of mails has arrived."""
    wait_until(lambda: len(postfix.mails) >= number)
    return Counter(str(mail["Delivered-To"]) for mail in postfix.mails)


def history(cli: Cli, message_id: int) -> list[tuple[str, int | None]]:
    """Return the outcome and status code of each attempt at a message."""
    attempts: list[dict[str, Any]] = cli.json("show", str(message_id))["attempts"]
    return [(attempt["outcome"], attempt["status_code"]) for attempt in attempts]


@contextmanager
def sink(*options: str) -> Iterator[tuple[int, Path]]:
    """Run an smtp-sink; return its port, and the folder to which it writes each mail."""
    assert SINK is not None
    with tempfile.TemporaryDirectory(prefix="sink-") as folder, socket.socket() as free:
        shutil.chown(folder, "nobody")
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
        free.close()
        command = [SINK, "-u", "nobody", *options, "-d", f"{folder}/m.", f"127.0.0.1:{port}", "50"]
        with subprocess.Popen(command) as process:
            try:
                wait_until(lambda: answers(port))
                yield port, Path(folder)
            finally:
                process.terminate()


def test_a_ticket_arrives_complete(postfix: Postfix, application: Application, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "invoice.pdf").write_bytes(b"%PDF" + bytes(range(256)) * 100)
    application.add(
        1,
        recipient_email="Ana <ana@x.test>",
        subject="Re: Rückgabe",
        body="Grüße\n.\nund Tschüss",
        attachments='["invoice.pdf"]',
        in_reply_to="<q1@customer.test>",
    )
    template = "[desk #{ticket_id}] {subject}"
    done = by_mail(application, tmp_path, postfix.port, attachments_dir=str(tmp_path / "files"), subject=template)
    assert done("run-once").returncode == 0
    assert application.rows()[1]["status"] == "sent"
    assert arrived(postfix, 1) == {"ana@x.test": 1}
    [mail] = postfix.mails
    assert mail["Subject"] == "[desk #4701] Re: Rückgabe"
    assert mail["In-Reply-To"] == mail["References"] == "<q1@customer.test>"
    text = mail.get_body(("plain",))
    assert text is not None
    assert text.get_content() == "Grüße\n.\nund Tschüss\n"
    [file] = mail.iter_attachments()
    assert file.get_content() == b"%PDF" + bytes(range(256)) * 100
    [attempt] = done.json("show", "1")["attempts"]
    assert f"ESMTP id {attempt['external_id']}" in " ".join(mail["Received"].split())


def test_of_three_recipients_one_is_refused_and_none_gets_it_twice(
    postfix: Postfix, application: Application, tmp_path: Path
) -> None:
    cc, bcc = json.dumps(["bounce@x.test"]), json.dumps(["cy@x.test"])
    application.add(1, recipient_email="ana@x.test", cc_emails=cc, bcc_emails=bcc)
    application.add(2, recipient_email="bo@x.test", cc_emails=json.dumps(["later@x.test", "dee@x.test"]))
    cli = by_mail(application, tmp_path, postfix.port)
    done = cli("run-once", "--json")
    summary = json.loads(done.stdout)
    assert (summary["sent"], summary["escalated"], summary["rescheduled"]) == (0, 1, 1)
    assert "@x.test" not in done.stderr  # the log must not contain addresses
    one, two = cli.json("show", "1"), cli.json("show", "2")
    assert one["queue"]["delivered_to"] == ["ana@x.test", "cy@x.test"]
    assert two["queue"]["delivered_to"] == ["bo@x.test", "dee@x.test"]
    error = str(application.rows()[1]["last_error"])
    assert error.startswith("RCPT bounce@x.test: SMTP 550 5.1.1 <bounce@x.test>: ")
    assert error.endswith("; delivered to all other recipients")
    again(cli, 1)
    again(cli, 2)
    application.execute("UPDATE pending_messages SET cc_emails = '[\"eli@x.test\"]' WHERE id = 1")
    again(cli, 1)
    application.execute("UPDATE pending_messages SET cc_emails = '[]' WHERE id = 2")
    again(cli, 2)
    assert {row["status"] for row in application.rows().values()} == {"sent"}
    assert arrived(postfix, 5) == dict.fromkeys(["ana@x.test", "cy@x.test", "eli@x.test", "bo@x.test", "dee@x.test"], 1)
    assert history(cli, 1) == [("permanent", 550), ("permanent", 550), ("delivered", 250)]
    assert history(cli, 2) == [("transient", 450), ("transient", 450), ("delivered", None)]


REFUSALS = [
    ({"recipient_email": "bounce@x.test"}, "permanent", 550, "permanent"),
    ({"recipient_email": "later@x.test"}, "transient", 450, None),
    ({"recipient_email": "ana@elsewhere.test"}, "permanent", 554, "permanent"),
    ({"body": "x" * 120_000}, "permanent", None, "permanent"),
    ({"recipient_email": "ana"}, "invalid", None, "invalid"),
    ({"message_type": "internal"}, "invalid", None, "invalid"),
]


@pytest.mark.parametrize(("columns", "outcome", "code", "reason"), REFUSALS)
def test_a_message_refused_by_postfix_or_its_row_arrives_nowhere(
    columns: dict[str, Any],
    outcome: str,
    code: int | None,
    reason: str | None,
    postfix: Postfix,
    application: Application,
    tmp_path: Path,
) -> None:
    application.add(1, **({"recipient_email": "ana@x.test"} | columns))
    cli = by_mail(application, tmp_path, postfix.port)
    assert cli("run-once").returncode == 0
    assert history(cli, 1) == [(outcome, code)]
    assert cli.json("show", "1")["queue"]["escalation_reason"] == reason
    assert postfix.mails == []


def test_an_internal_note_reaches_only_the_team(postfix: Postfix, application: Application, tmp_path: Path) -> None:
    application.add(1, message_type="internal", recipient_email="ana@x.test", cc_emails='["cy@x.test"]')
    assert by_mail(application, tmp_path, postfix.port, recipient="team@x.test")("run-once").returncode == 0
    assert arrived(postfix, 1) == {"team@x.test": 1}


SINKS = [
    (("-r", "RCPT"), "transient", 450),
    (("-f", "."), "permanent", 500),
    (("-r", "."), "transient", 450),
    (("-q", "DATA"), "transient", None),
    (("-q", "."), "unknown", None),
]


@pytest.mark.parametrize(("options", "outcome", "code"), SINKS)
def test_a_sink_that_breaks_off_at_a_step(
    options: tuple[str, ...], outcome: str, code: int | None, application: Application, tmp_path: Path
) -> None:
    application.add(1)
    with sink(*options) as (port, _):
        cli = by_mail(application, tmp_path, port)
        cli("run-once")
    assert history(cli, 1) == [(outcome, code)]


def test_a_message_that_may_have_arrived_is_sent_with_the_same_id_and_then_escalated(
    application: Application, tmp_path: Path
) -> None:
    application.add(1)
    with sink("-q", ".") as (port, kept):
        cli = by_mail(application, tmp_path, port, unknown_limit="1")
        assert cli("run-once").returncode == 0
        assert cli.json("show", "1")["queue"]["state"] == "waiting"
        application.execute("UPDATE retrycli_queue SET next_attempt_at = '2025-01-01 00:00:00'")
        assert cli("run-once").returncode == 0
        arrivals = [message_from_bytes(path.read_bytes())["Message-ID"] for path in kept.iterdir()]
    found = cli.json("show", "1")
    assert arrivals == [f"<{found['queue']['delivery_key']}@desk.test>"] * 2
    assert found["queue"]["escalation_reason"] == "unknown"
    assert found["queue"]["delivered_to"] == []
    assert str(found["message"]["last_error"]).startswith("May have arrived: the end of the mail: ")


def test_the_connection_to_postfix_with_a_certificate_is_encrypted(
    certificate: Path, application: Application, tmp_path: Path
) -> None:
    chain = f"smtpd_tls_chain_files = {certificate}\nsmtpd_tls_security_level = encrypt\n"
    application.add(1, recipient_email="ana@x.test")
    with running_postfix(chain) as postfix:
        cli = by_mail(application, tmp_path, postfix.port, starttls="true")
        assert cli("run-once").returncode == 77
        assert postfix.mails == []
        trusting = cli.having({"RETRYCLI_GATEWAY__CA_FILE": str(certificate)})
        findings = {finding["name"]: finding for finding in trusting.json("doctor", code=3)["findings"]}
        assert findings["smtp"]["level"] == "ok"
        assert trusting("run-once").returncode == 0
        assert arrived(postfix, 1) == {"ana@x.test": 1}
        assert "with ESMTPS id" in str(postfix.mails[0]["Received"])


def test_a_pass_without_a_mail_server_reports_it(application: Application, tmp_path: Path) -> None:
    with suppress(OSError), socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        application.add_due(6)
        cli = by_mail(application, tmp_path, int(closed.getsockname()[1]))
        assert cli("run-once").returncode == 69
