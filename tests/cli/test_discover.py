"""`retrycli table discover`: its output on a terminal, piped and as JSON, and its errors."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from retrycli.config.loader import load
from retrycli.domain.table_mapping import Column, Own, Split
from tests import postgresql
from tests.conftest import on_both
from tests.environment import free_port
from tests.store.outgoing_tables import CAP, DECOYS, ODOO, POST_OFFICE, execute, fill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.application import Application
    from tests.cli.command import Cli, Finished
    from tests.store.conftest import Factory

pytestmark = on_both


@pytest.fixture
def url(engine: Factory, tmp_path: Path) -> Iterator[str]:
    """Provide an empty database."""
    with engine(tmp_path, None) as made:
        yield made


def said(done: Finished, code: int) -> str:
    """Return the error of a command, which printed nothing else."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    return done.stderr


def test_the_piped_output_is_a_configuration_file_once_the_values_are_filled_in(cli: Cli, url: str) -> None:
    fill(url, POST_OFFICE)
    done = cli("table", "discover", "--url", url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "# Next: save the edited settings, then `retrycli table check`"
    file = cli.cwd / "new.toml"
    file.write_text(done.stdout.replace("failed = []", "failed = 1").replace("sent = []", "sent = 0"))
    settings = load(file, {}).settings.database
    assert (make_url(settings.url), settings.table) == (make_url(url), "post_office_email")
    assert settings.mapping is not None
    assert settings.mapping.source("recipient_email") == Split("to", ",")
    assert settings.mapping.source("body") == Column("message")
    assert settings.mapping.source("last_error") == Own()
    assert settings.mapping.status == (("failed", 1), ("sent", 0))


def test_the_failed_value_must_be_filled_in(cli: Cli, url: str) -> None:
    fill(url, ODOO)
    (cli.cwd / "new.toml").write_text(cli("table", "discover", "--url", url).stdout)
    assert "database.status.failed must be text, an integer" in said(cli("status", "--config", "new.toml"), 78)


def test_a_terminal_shows_the_candidates_and_the_settings(cli: Cli, url: str) -> None:
    fill(url, POST_OFFICE)
    seen = cli.on_terminal("table", "discover", "--url", url, columns=160)
    assert seen.returncode == 0
    header, _, first, *_ = seen.text.splitlines()
    assert header.split() == ["Table", "Kind", "Columns", "Statuses"]
    assert first.startswith("post_office_email  table  id, subject, body: message")
    assert "0 ×4, 1 ×4, 2 ×4 in all 12 rows" in seen.words
    assert '\nbody = "message"\n' in seen.text
    assert seen.text.splitlines()[-1] == "Next: save the edited settings, then `retrycli table check`"


def test_json_has_the_candidates_and_the_settings(cli: Cli, url: str) -> None:
    fill(url, ODOO)
    shown = cli.json("table", "discover", "--url", url)
    assert tomllib.loads(shown.pop("toml"))["database"]["columns"] == ODOO.columns
    assert shown["examined"] == len(DECOYS.split("CREATE TABLE")[1:]) + 3
    first = shown["tables"][0]
    columns = first.pop("columns")
    assert columns["body"] == "body_html"
    assert first == {
        "table": "mail_mail",
        "kind": "table",
        "conforming": False,
        "statuses": [{"value": value, "rows": 4, "older": False} for value in ("exception", "outgoing", "sent")],
        "rows_without_status": 0,
        "rows_with_hidden_status": 0,
        "rows_counted": 12,
        "counted_all": True,
        "counted_newest": True,
        "problem": None,
    }


def test_the_settings_name_the_database_unless_an_option_does(cli: Cli, url: str) -> None:
    fill(url, POST_OFFICE)
    cli = cli.having({"RETRYCLI_DATABASE__URL": url, "RETRYCLI_DATABASE__TABLE": "gone"})
    section = tomllib.loads(cli("table", "discover").stdout)["database"]
    assert section["table"] == "post_office_email"
    assert "url" not in section


def test_a_table_can_be_named_in_any_case(cli: Cli, url: str) -> None:
    fill(url, POST_OFFICE)
    assert tomllib.loads(cli("table", "discover", "--url", url, "ORDERS").stdout)["database"]["table"] == "orders"


def test_the_default_table_needs_no_settings(cli: Cli, application: Application) -> None:
    application.fill()
    done = cli("table", "discover", env={"RETRYCLI_DATABASE__URL": application.url})
    assert "no settings are needed." in done.stdout
    assert cli.json("table", "discover", "--url", application.url)["tables"][0]["conforming"]


# -- errors ----------------------------------------------------------------------------------------


def test_a_database_without_such_a_table_is_reported(cli: Cli, url: str) -> None:
    assert "looks like outgoing messages (0 tables examined); check" in said(cli("table", "discover", "--url", url), 3)
    execute(url, "CREATE TABLE stock (id integer PRIMARY KEY, name text)")
    assert "(1 table examined)" in said(cli("table", "discover", "--url", url), 3)
    assert cli.json("table", "discover", "--url", url, code=3)["toml"] is None


def test_an_unknown_table_is_reported_with_similar_names(cli: Cli, url: str) -> None:
    fill(url, POST_OFFICE)
    text = said(cli("table", "discover", "--url", url, "postoffice_email"), 78)
    assert "no table postoffice_email in " in text
    assert "did you mean post_office_email" in text
    assert "`retrycli table discover` lists" in said(cli("table", "discover", "--url", url, "x"), 78)


def test_a_missing_file_and_a_file_that_is_no_database_are_reported(cli: Cli) -> None:
    text = cli.cwd / "notes.txt"
    text.write_text("Buy tea. " * 100)
    assert "file is not a database: check --url" in said(cli("table", "discover", "--url", f"sqlite:///{text}"), 69)
    assert "check --url" in said(cli("table", "discover", "--url", "sqlite:///gone.db"), 69)
    assert "check database.url (RETRYCLI_DATABASE__URL)" in said(cli("table", "discover"), 69)
    assert not (cli.cwd / "gone.db").exists()


def test_another_kind_of_database_is_reported(cli: Cli) -> None:
    assert "--url: write sqlite:///FILE or" in said(
        cli("table", "discover", "--url", "mysql://desk@127.0.0.1/desk"), 78
    )


def test_an_unreachable_server_is_reported_without_the_password(cli: Cli) -> None:
    text = said(cli("table", "discover", "--url", f"postgresql://anna:hush@127.0.0.1:{free_port()}/desk"), 69)
    assert "check the host and port in --url" in text
    assert "hush" not in text


def test_a_password_is_not_shown(cli: Cli) -> None:
    """The test's server accepts any password."""
    with postgresql.database() as url:
        fill(url, CAP)
        secret = make_url(url).set(password="hush").render_as_string(hide_password=False)
        done = cli("table", "discover", "--url", secret)
        assert tomllib.loads(done.stdout)["database"]["table"] == "cap.published"
        assert "url" not in tomllib.loads(done.stdout)["database"]
        assert "# url = " in done.stdout
        assert "hush" not in done.stdout + done.stderr + repr(cli.json("table", "discover", "--url", secret))
