"""PostgreSQL settings that retrycli uses only for its own transactions and connections."""

from __future__ import annotations

from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import make_url, text

from retrycli.domain.errors import ConfigurationError, DatabaseUnavailable
from retrycli.store.connection import BUSY_SECONDS, NO_RESULT
from retrycli.store.database import Database
from tests import postgresql
from tests.proxy import Loses, proxy
from tests.store.application import NOON

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = text("SELECT current_setting('lock_timeout'), current_setting('synchronous_commit')")
PAGE_COST = text("SELECT current_setting('random_page_cost')")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with postgresql.database() as made:
        yield made


def with_query(url: str, **query: str) -> str:
    return make_url(url).update_query_dict(query).render_as_string(hide_password=False)


@contextmanager
def opened(url: str, patience: int = BUSY_SECONDS) -> Iterator[Database]:
    with closing(Database(url, patience=patience)) as database:
        yield database


def parameters(database: Database) -> dict[str, str]:
    with closing(database._engine.raw_connection()) as connection:
        driver: Any = connection.driver_connection
        found: dict[str, str] = driver.info.get_parameters()
        return found


@pytest.mark.parametrize("way", ["read", "write", "transaction", "rollback_at_end"])
def test_transactions_have_a_lock_timeout_durable_commits_and_prefer_look_ups_to_scans(url: str, way: str) -> None:
    """A pass on a table with 20,000 UUIDs took 1.5 times as long with the default, because of scans and wide joins."""
    hasty = with_query(url, options="-c synchronous_commit=off")
    with opened(hasty) as database, getattr(database, way)(), database.read() as connection:
        assert connection.execute(SETTINGS).one() == (f"{BUSY_SECONDS}s", "local")
        assert connection.execute(PAGE_COST).scalar_one() == "1.1"


def test_the_roles_settings_are_kept(url: str) -> None:
    own = with_query(url, options="-c lock_timeout=1234 -c synchronous_commit=remote_write")
    with opened(own) as database, database.write() as connection:
        assert connection.execute(SETTINGS).one() == ("1234ms", "remote_write")


def test_no_setting_remains_in_the_session(url: str) -> None:
    """A connection pooler reuses the session for other clients."""
    with opened(with_query(url, options="-c synchronous_commit=off")) as database:
        with database.write() as connection:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with closing(database._engine.raw_connection()) as kept, closing(kept.cursor()) as cursor:
            cursor.execute(f"SELECT pg_backend_pid(), {str(SETTINGS).removeprefix('SELECT ')}")
            assert cursor.fetchone() == (pid, "0", "off")
            cursor.execute("SELECT count(*) FROM pg_prepared_statements")
            assert cursor.fetchone() == (0,)


def test_a_silent_server_is_abandoned_before_claims_lapse(url: str) -> None:
    with opened(url) as database:
        found = parameters(database)
    assert int(found["connect_timeout"]) <= BUSY_SECONDS
    assert int(found["tcp_user_timeout"]) <= BUSY_SECONDS * 1000
    silence = int(found["keepalives_idle"]) + int(found["keepalives_interval"]) * int(found["keepalives_count"])
    assert silence <= BUSY_SECONDS
    with opened(with_query(url, connect_timeout="7", keepalives_idle="60")) as database:
        found = parameters(database)
    assert (found["connect_timeout"], found["keepalives_idle"]) == ("7", "60"), "the URL takes precedence"
    with opened(url, patience=2) as database, database.read() as connection:
        assert connection.execute(SETTINGS).one()[0] == "2s"
        assert parameters(database)["connect_timeout"] == "2"


@pytest.mark.parametrize("read", [False, True])
def test_a_write_is_not_awaited_before_a_read(url: str, *, read: bool) -> None:
    """The error of a write is raised at the next read or at the end, because the write is not awaited."""
    statements = ("SELECT 1 / length(CAST(pg_sleep(1) AS text))", "SELECT 1")
    sent = []

    def fail(database: Database) -> None:
        with database.write() as connection:
            for statement in statements:
                connection.execute(text(f"CREATE TEMPORARY TABLE made AS {statement}"), execution_options=NO_RESULT)
                sent.append(statement)
            if read:
                connection.execute(text("SELECT 1"))
                sent.append("more")

    with opened(url) as database, pytest.raises(DatabaseUnavailable, match="division by zero"):
        fail(database)
    assert sent == [*statements]


def test_a_write_is_awaited_at_a_read_and_at_the_end() -> None:
    one_more = text("INSERT INTO made VALUES (1)").execution_options(**NO_RESULT)
    with (
        postgresql.own_server() as server,
        proxy(server.port, "nothing that is ever said", Loses.ITS_ANSWER) as between,
    ):
        url = make_url(server.url).set(port=between.port).render_as_string(hide_password=False)
        with opened(url) as database:
            with database.write() as connection:
                connection.execute(text("CREATE TABLE made (number integer)"))
            before = between.awaited
            with database.write() as connection:
                for _ in range(3):
                    connection.execute(one_more)
                assert connection.execute(text("SELECT count(*) FROM made")).scalar() == 3
                connection.execute(one_more)
            assert between.awaited - before == 3  # `BEGIN`, the count, and `COMMIT`


def test_a_connection_that_cannot_leave_its_pipeline_is_replaced(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A server that goes away in the middle of an answer leaves such a connection too. The pool could not reset it."""
    with opened(url) as database:
        with pytest.raises(DatabaseUnavailable), database.write() as connection:
            connection.exec_driver_sql("COPY (SELECT 1) TO STDOUT", execution_options=NO_RESULT)
        with database.write():
            pass
    assert not [record for record in caplog.records if record.name.startswith("sqlalchemy")]


def test_json_in_the_databases_encoding_is_read_like_text() -> None:
    with (
        postgresql.database(options="TEMPLATE template0 LOCALE 'C' ENCODING 'LATIN1'") as latin,
        opened(latin) as database,
        database.read() as connection,
    ):
        row = connection.execute(text("""SELECT CAST('["ü"]' AS json), CAST('["u"]' AS json), 'ü'""")).one()
    assert row == ('["ü"]', ["u"], "ü")


def test_a_database_without_an_encoding_is_refused_until_one_is_configured() -> None:
    with postgresql.database(options="TEMPLATE template0 LOCALE 'C' ENCODING 'SQL_ASCII'") as url:
        with opened(url) as database, pytest.raises(ConfigurationError, match=r"add client_encoding=utf8 to"):
            database.revision()
        with opened(with_query(url, client_encoding="utf8")) as database, database.read() as connection:
            assert connection.execute(text("SELECT 'Grüße, 中'")).scalar() == "Grüße, 中"


def test_committed_changes_are_visible_under_any_default_isolation(url: str) -> None:
    """Under stricter isolation, one of two hosts that change the same row would fail."""
    strict = with_query(url, options="-c default_transaction_isolation=serializable")
    with opened(strict) as database, database.write() as connection:
        assert connection.execute(text("SHOW transaction_isolation")).scalar() == "read committed"


def test_times_are_read_in_any_time_zone_and_date_style(url: str) -> None:
    times = text("SELECT TIMESTAMPTZ '0001-01-01 00:00+00', TIMESTAMPTZ '9999-12-31 23:59:59+00'")
    others = text("SELECT TIMESTAMPTZ '2025-03-03 12:00+00', TIMESTAMP '2025-03-03 12:00', INTERVAL '1 day'")
    for zone in ("America/New_York", "Pacific/Auckland"):
        options = f"-c timezone={zone} -c datestyle=German -c intervalstyle=iso_8601"
        with opened(with_query(url, options=options)) as database, database.read() as connection:
            found = [row.astimezone(UTC).replace(tzinfo=None) for row in connection.execute(times).one()]
            assert connection.execute(others).one() == (NOON, NOON.replace(tzinfo=None), timedelta(days=1))
        assert found == [datetime.min, datetime.max.replace(microsecond=0)]  # noqa: DTZ901
