"""The ``presets`` and ``deliver-test`` commands, and a pass with a gateway for each message type."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from retrycli.gateway.presets.loader import known_presets
from retrycli.operations.sandbox import Behaviour, Sandbox
from tests.cli.application import Application
from tests.cli.command import Cli
from tests.gateway.hostile import Hostile, answer

OWN = """
[auth]
headers = { X-Api-Key = "{token}" }

[messages.customer]
path = "/cases/{ticket_id}/replies"
body = { text = "{body}", cc = "{cc_emails|join:; }", files = { for_each = "attachments", give = "{each.name}" } }

[messages.internal]
path = "/cases/{ticket_id}/notes"
ignores = ["cc_emails", "bcc_emails"]
body = { text = "{body}", private = true }
"""


PLAIN = """
[messages.customer]
path = "/cases/{ticket_id}/replies"
ignores = ["cc_emails", "bcc_emails", "attachments"]
body = { text = "{body}" }
"""


def test_each_preset_is_shown_verbatim_and_passes_its_own_check(cli: Cli, tmp_path: Path) -> None:
    """Operators copy the output to write their own presets, so it must be complete and valid."""
    own = tmp_path / "own.toml"
    for name in known_presets():
        own.write_text(cli("presets", "show", name).stdout, encoding="utf-8")
        checked = [cli("presets", "check", preset) for preset in (name, str(own))]
        assert [(done.returncode, done.stderr) for done in checked] == [(0, "")] * 2, name


def test_without_a_success_rule_a_page_is_no_delivery(cli: Cli, application: Application, tmp_path: Path) -> None:
    """A proxy may answer with its log-in page. The preset of an own system has no rule that could tell."""
    for number in range(1, 6):
        application.add(number)
    page = answer(200, b"<html>Log in</html>", {"Content-Type": "text/html; charset=utf-8"})
    with Hostile(page) as server:
        command = using(cli, application, server, PLAIN)
        file = tmp_path / "own.toml"
        assert "no [success]" in command.json("presets", "check", file)["warning"]
        assert "no [success]" in command("presets", "check", file).stdout
        done = command("run-once")
        assert (done.returncode, len(server.requests)) == (78, 1)
        assert f"{server.url}: HTTP 200 text/html, and the preset has no [success] that can judge it" in done.stderr
        assert (command("run-once").returncode, len(server.requests)) == (78, 1)
        assert command.json("status")["state"] == "down"
        assert "whose responses the preset can't judge" in command("status").stdout
        assert "the preset can't judge the responses" in command("explain", "2").stdout
        assert (command("run-once", "--probe").returncode, len(server.requests)) == (78, 2)
        reasons = [row["escalation_reason"] for row in application.rows("retrycli_queue").values()]
        assert Counter(reasons) == {"unknown": 2, None: 3}
        assert {row["status"] for row in application.rows().values()} == {"failed"}
        file.write_text(PLAIN + "[success]\ntext = 'Log in'", encoding="utf-8")
        assert command("run-once", "--probe").returncode == 0
    assert Counter(row["status"] for row in application.rows().values()) == {"failed": 2, "sent": 3}


def using(cli: Cli, application: Application, server: Hostile, text: str) -> Cli:
    """Return the command with a preset of an own system."""
    file = cli.cwd / "own.toml"
    file.write_text(text, encoding="utf-8")
    return cli.having({**application.variables(server.url), "RETRYCLI_GATEWAY__PRESET": str(file)})


def test_a_page_to_every_message_is_no_refusal_of_each(cli: Cli, application: Application) -> None:
    """A maintenance or log-in page with status 200, though the preset says which status means success."""
    application.add_due(14)
    with Hostile(answer(200, b"<html>We will be back soon</html>", {"Content-Type": "text/html"})) as server:
        command = using(cli, application, server, PLAIN + "[success]\nstatus = [201]")
        done = command("run-once")
        assert done.returncode == 69
        assert "responds with HTTP 200 and a refusal to every request" in done.stderr
        assert command.json("status")["state"] == "down"
    assert {row["retry_count"] for row in application.rows().values()} == {0}
    assert {row["outcome"] for row in application.rows("retrycli_attempts").values()} == {"unauthorized"}


CHECKING = (
    PLAIN
    + """
preflight = "right"

[preflight.right]
remedy = "give the role the right to add notes"

[[preflight.right.steps]]
path = "/me"
holds = { path = "may_add_notes", equals = true }

[success]
status = [201]
"""
)


def test_a_preflight_that_fails_for_every_message_escalates_none(cli: Cli, application: Application) -> None:
    """An administrator may have taken a right away. Only when it is given back can anything be sent."""
    application.add_due(14)
    rights = [answer(200, b'{"may_add_notes": false}')] * 2
    with Hostile(answer(201), at={"/me": [*rights, answer(200, b'{"may_add_notes": true}')]}) as server:
        command = using(cli, application, server, CHECKING)
        for _ in rights:
            assert command("run-once").returncode == 69
            assert {row["retry_count"] for row in application.rows().values()} == {0}
            assert {row["state"] for row in application.rows("retrycli_queue").values()} == {"waiting"}
        told = "preflight right failed: give the role the right to add notes (for 13 tickets"
        assert told in command("passes").stdout
        assert command.json("run-once")["sent"] == 14


VERIFYING = (
    PLAIN
    + """
[messages.customer.verify]
path = "/cases/{ticket_id}"
holds = { path = "text", equals = "Hello" }

[success]
status = [201]
"""
)


def test_a_read_back_that_fails_is_reported(cli: Cli, application: Application) -> None:
    """For example if the account may not read. The messages are delivered, but `gateway.verify` protects nobody."""
    for number in (1, 2, 3):
        application.add(number)
    copies = {f"/cases/{ticket}": [answer(403)] for ticket in (4702, 4703)}
    copies["/cases/4701"] = [answer(200, b'{"text": "Hello"}')]
    with Hostile(answer(201), at=copies) as server:
        done = using(cli, application, server, VERIFYING)("run-once", env={"RETRYCLI_GATEWAY__VERIFY": "true"})
    assert {row["status"] for row in application.rows().values()} == {"sent"}
    [warning] = [line for line in done.stderr.splitlines() if "WARNING" in line]
    told = r"2 messages were delivered, but could not be read back \(gateway\.verify\); see `retrycli show [23]`"
    assert re.search(told, warning)


def test_a_preset_is_checked_against_an_existing_table(cli: Cli, at_work: Cli, tmp_path: Path) -> None:
    """Without a table, the check lists the columns that the preset requires."""
    file = tmp_path / "own.toml"
    file.write_text(OWN.replace("{body}", "{colour}"), encoding="utf-8")
    refused = at_work("presets", "check", file)
    assert refused.returncode == 78
    assert "messages.customer refers to column colour, which does not exist" in refused.stderr
    gone = {"RETRYCLI_DATABASE__URL": f"sqlite:///{tmp_path}/gone.db"}
    told = cli.having(gone).json("presets", "check", file)["table"]
    assert "no database at" in told
    assert "colour" in told


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        ("path = ", "pfad = ", "messages.customer.pfad (line 6): no such key (valid keys: "),
        ("/cases/", "/../cases/", "messages.customer.path (line 6): the path leads outside the base URL"),
        ('"{body}"', '"{body|shout}"', "messages.customer.body (line 7): {body|shout} has an unknown filter 'shout'"),
        ('"{body}"', '"{body|html}"', "the format is text"),
        ("ignores = [", 'headers = { X-Y = "Schlüssel" }\nignores = [', "messages.internal.headers.X-Y (line 11): "),
        ("[messages.internal]", "[messages.partner]", "messages.partner (line 9)"),
        ('text = "{body}", cc', 'text = "{body", cc', "unmatched {"),
        ("ignores = [", 'headers = { X-Subject = "{subject}" }\nignores = [', "write {subject|base64}"),
    ],
)
def test_a_preset_error_is_reported_with_key_and_line_and_all_others(
    wrong: str, right: str, said: str, cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "own.toml"
    file.write_text(OWN.replace('"{token}"', '"{tokens}"').replace(wrong, right, 1), encoding="utf-8")
    refused = cli("presets", "check", file)
    assert refused.returncode == 78
    assert said in refused.stderr
    assert "auth.headers.X-Api-Key (line 3): {tokens} must be one of" in refused.stderr
    assert "the key is missing" not in refused.stderr, "what is misspelt is not missing as well"


def test_a_test_message_is_shown_with_masked_secrets(at_work: Cli, sandbox: Sandbox, tmp_path: Path) -> None:
    config = tmp_path / "own.toml"
    config.write_text(OWN.replace("/cases/", "/tickets/"), encoding="utf-8")
    env = {"RETRYCLI_GATEWAY__PRESET": str(config), "RETRYCLI_GATEWAY__TOKEN": "geheim-17"}
    done = at_work("deliver-test", "--ticket", "4711", env=env)
    assert done.returncode == 0
    assert "> x-api-key: ***" in done.stdout
    assert "geheim-17" not in done.stdout + done.stderr
    [received] = sandbox.received
    assert received.content["private"] is True


TO_BEN = ("deliver-test", "--ticket", "1", "--type", "customer", "--to", "ben@example.com", "--yes")


def test_a_test_message_can_have_copies_and_attachments(at_work: Cli, sandbox: Sandbox, tmp_path: Path) -> None:
    copies = ("--cc", "ana@example.com", "--cc", "cy@example.com", "--bcc", "dan@example.com")
    assert at_work(*TO_BEN, *copies).returncode == 0
    assert sandbox.received[0].content["cc"] == ["ana@example.com", "cy@example.com"]
    assert sandbox.received[0].content["bcc"] == ["dan@example.com"]
    config = tmp_path / "own.toml"
    config.write_text(OWN.replace("/cases/", "/tickets/").replace("/replies", "/messages"), encoding="utf-8")
    for file_name in ("bill.pdf", "räder.png"):
        (tmp_path / file_name).write_bytes(b"\x89")
    own = {"PRESET": str(config), "TOKEN": "geheim-17", "ATTACHMENTS_DIR": str(tmp_path)}
    with_files = at_work.having({f"RETRYCLI_GATEWAY__{name}": value for name, value in own.items()})
    assert with_files(*TO_BEN, "--attach", "bill.pdf", "--attach", "räder.png").returncode == 0
    assert sandbox.received[1].content["files"] == ["bill.pdf", "räder.png"]
    told = with_files.json(*TO_BEN, "--attach", "elsewhere.pdf", code=3)
    assert told["outcome"] == "invalid"
    assert told["error"].startswith("attachment 1 ")
    assert len(sandbox.received) == 2


def test_a_gateway_that_is_down_is_reported_and_stops_no_other(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    for number in range(1, 8):
        application.add(number, message_type="internal")
    application.add(11)
    with Sandbox(Behaviour(down=True), rng=Random(0)) as broken:
        both = at_work.having({"RETRYCLI_GATEWAY__INTERNAL__BASE_URL": broken.url})
        told = both.json("run-once", code=69)
        assert (told["sent"], told["reason"]) == (1, "breaker_open")
        assert broken.url in both("status").stdout
        assert "failed 5 times in a row" in both("explain", "7").stdout
        told = both.json("deliver-test", "--ticket", "1", code=3)
        assert (told["outcome"], told["status_code"]) == ("transient", 503)
    assert [request.kind for request in sandbox.received] == ["message"]


def test_a_gateway_of_a_type_inherits_all_keys_but_those_of_a_destination(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "retrycli.toml").write_text(
        """
        [gateway]
        base_url = "https://tickets.example.com"
        auth = "bearer"
        token = "geheim"
        request_timeout_seconds = 7
        [gateway.supplier]
        kind = "smtp"
        base_url = "smtp://mail.example.com"
        sender = "Support <support@example.com>"
        password = "auch geheim"
        username = "support"
        """
    )
    shown = cli("config", "show").stdout
    assert "gateway.supplier.request_timeout_seconds\t7\t" in shown
    assert "gateway.supplier.token\t\t" in shown
    assert "geheim" not in shown
