"""What retrycli asks of a server, for its own transactions and connections alone."""

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
    """What the driver has told the library that it stands on."""
    with closing(database._engine.raw_connection()) as connection:
        driver: Any = connection.driver_connection
        found: dict[str, str] = driver.info.get_parameters()
        return found


@pytest.mark.parametrize("way", ["read", "write", "transaction", "rollback_at_end"])
def test_no_transaction_waits_for_ever_or_forgets_what_it_has_committed(url: str, way: str) -> None:
    hasty = with_query(url, options="-c synchronous_commit=off")
    with opened(hasty) as database, getattr(database, way)(), database.read() as connection:
        assert connection.execute(SETTINGS).one() == (f"{BUSY_SECONDS}s", "local")


def test_what_a_role_is_set_to_is_left_as_it_is(url: str) -> None:
    own = with_query(url, options="-c lock_timeout=1234 -c synchronous_commit=remote_write")
    with opened(own) as database, database.write() as connection:
        assert connection.execute(SETTINGS).one() == ("1234ms", "remote_write")


def test_nothing_of_it_is_left_in_the_session(url: str) -> None:
    """Behind a pooler that is the next one's."""
    with opened(with_query(url, options="-c synchronous_commit=off")) as database:
        with database.write() as connection:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with closing(database._engine.raw_connection()) as kept, closing(kept.cursor()) as cursor:
            cursor.execute(f"SELECT pg_backend_pid(), {str(SETTINGS).removeprefix('SELECT ')}")
            assert cursor.fetchone() == (pid, "0", "off")
            cursor.execute("SELECT count(*) FROM pg_prepared_statements")
            assert cursor.fetchone() == (0,)


def test_a_server_that_has_gone_without_a_word_is_given_up_before_claims_lapse(url: str) -> None:
    with opened(url) as database:
        found = parameters(database)
    assert int(found["connect_timeout"]) <= BUSY_SECONDS
    assert int(found["tcp_user_timeout"]) <= BUSY_SECONDS * 1000
    silence = int(found["keepalives_idle"]) + int(found["keepalives_interval"]) * int(found["keepalives_count"])
    assert silence <= BUSY_SECONDS


def test_what_the_url_says_of_that_goes_before_it(url: str) -> None:
    with opened(with_query(url, connect_timeout="7", keepalives_idle="60")) as database:
        found = parameters(database)
    assert (found["connect_timeout"], found["keepalives_idle"]) == ("7", "60")


def test_who_is_in_a_hurry_waits_no_longer(url: str) -> None:
    with opened(url, patience=2) as database, database.read() as connection:
        assert connection.execute(SETTINGS).one()[0] == "2s"
        assert parameters(database)["connect_timeout"] == "2"


@pytest.mark.parametrize("read", [False, True])
def test_a_server_is_not_waited_for_before_something_is_read(url: str, *, read: bool) -> None:
    """What a statement meets with a second later shows then, or at the end, and not when it is sent."""
    statements = ("SELECT 1 / length(CAST(pg_sleep(1) AS text))", "SELECT 1")
    sent = []

    def fail(database: Database) -> None:
        with database.write() as connection:
            for each in statements:
                connection.execute(text(f"CREATE TEMPORARY TABLE made AS {each}"), execution_options=NO_RESULT)
                sent.append(each)
            if read:
                connection.execute(text("SELECT 1"))
                sent.append("more")

    with opened(url) as database, pytest.raises(DatabaseUnavailable, match="division by zero"):
        fail(database)
    assert sent == [*statements]


def test_a_server_is_waited_for_where_something_is_read_and_at_the_end() -> None:
    one_more = text("INSERT INTO made VALUES (1)").execution_options(**NO_RESULT)
    with (
        postgresql.own_server() as server,
        proxy(server.port, "nothing that is ever said", Loses.ITS_ANSWER) as between,
    ):
        url = make_url(server.url).set(port=between.port).render_as_string(hide_password=False)
        with opened(url) as database:
            with database.write() as connection:
                connection.execute(text("CREATE TABLE made (number integer)"))
            before = between.turns
            with database.write() as connection:
                for _ in range(3):
                    connection.execute(one_more)
                assert connection.execute(text("SELECT count(*) FROM made")).scalar() == 3
                connection.execute(one_more)
            assert between.turns - before == 3  # its beginning, the count, its end


def test_json_in_the_databases_own_encoding_is_read_like_text() -> None:
    with (
        postgresql.database(options="TEMPLATE template0 LOCALE 'C' ENCODING 'LATIN1'") as latin,
        opened(latin) as database,
        database.read() as connection,
    ):
        row = connection.execute(text("""SELECT CAST('["ü"]' AS json), CAST('["u"]' AS json), 'ü'""")).one()
    assert row == ('["ü"]', ["u"], "ü")


def test_a_database_without_an_encoding_is_refused_until_one_is_named() -> None:
    with postgresql.database(options="TEMPLATE template0 LOCALE 'C' ENCODING 'SQL_ASCII'") as url:
        with opened(url) as database, pytest.raises(ConfigurationError, match=r"add client_encoding=utf8 to"):
            database.revision()
        with opened(with_query(url, client_encoding="utf8")) as database, database.read() as connection:
            assert connection.execute(text("SELECT 'Grüße, 中'")).scalar() == "Grüße, 中"


def test_the_calendars_first_and_last_times_are_read_wherever_the_server_is(url: str) -> None:
    times = text("SELECT TIMESTAMPTZ '0001-01-01 00:00+00', TIMESTAMPTZ '9999-12-31 23:59:59+00'")
    for zone in ("America/New_York", "Pacific/Auckland"):
        with opened(with_query(url, options=f"-c timezone={zone}")) as database, database.read() as connection:
            found = [each.astimezone(UTC).replace(tzinfo=None) for each in connection.execute(times).one()]
        assert found == [datetime.min, datetime.max.replace(microsecond=0)]  # noqa: DTZ901


def test_what_others_have_committed_is_seen_whatever_the_server_isolates(url: str) -> None:
    """Or of two hosts that change the same row one would fail."""
    strict = with_query(url, options="-c default_transaction_isolation=serializable")
    with opened(strict) as database, database.write() as connection:
        assert connection.execute(text("SHOW transaction_isolation")).scalar() == "read committed"


def test_times_are_read_whatever_the_server_writes_them_like(url: str) -> None:
    times = text("SELECT TIMESTAMPTZ '2025-03-03 12:00+00', TIMESTAMP '2025-03-03 12:00', INTERVAL '1 day'")
    german = with_query(url, options="-c datestyle=German -c intervalstyle=iso_8601")
    with opened(german) as database, database.read() as connection:
        assert connection.execute(times).one() == (NOON, NOON.replace(tzinfo=None), timedelta(days=1))
