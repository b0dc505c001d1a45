"""SQL operators that a hostile search path may replace. `tests/cli/test_search_path.py` covers all commands."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from retrycli.domain.errors import DatabaseUnavailable
from retrycli.store.database import Database
from retrycli.store.schema import selection
from tests import traps
from tests.store.application import Application, opened

pytestmark = pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
NAME = selection.c.table_name


@pytest.fixture
def trapped(application: Application) -> Application:
    """Provide an application whose search path contains malicious operators."""
    traps.plant(application.url)
    return application


def names(database: Database, *conditions: object) -> list[str]:
    with database.read() as connection:
        return list(connection.execute(select(NAME).where(*conditions)).scalars())  # type: ignore[arg-type]


def test_texts_are_compared_as_texts(trapped: Application) -> None:
    with opened(trapped) as database:
        assert names(database, NAME.between("p", "q")) == names(database, ~NAME.between("q", "r")) != []
        assert names(database, NAME.between("q", "r")) == names(database, ~NAME.between("p", "q")) == []


def test_nullif_is_refused_because_its_operator_is_looked_up(trapped: Application) -> None:
    with opened(trapped) as database, pytest.raises(DatabaseUnavailable, match=r"pg_catalog.nullif"):
        names(database, func.nullif(NAME, NAME).is_(None))
