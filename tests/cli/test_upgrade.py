"""Upgrades of retrycli's own tables, even during a pass of the previous version."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config

from retrycli.store import schema
from retrycli.store.database import Database
from tests.cli.api import held_back
from tests.cli.command import LONGEST, end
from tests.conftest import on_both

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = on_both

NEXT = f"{int(schema.HEAD) + 1000}"
MIGRATION = f"""
import sqlalchemy as sa
from alembic import op

revision, down_revision = "{NEXT}", "{schema.HEAD}"


def upgrade():
    for table in ("queue", "attempts", "passes", "acts"):
        op.add_column("retrycli_" + table, sa.Column("colour", sa.Text))
    op.create_table("retrycli_colours", sa.Column("name", sa.Text, primary_key=True))
"""


def upgrade_further(application: Application, folder: Path) -> None:
    """Apply a later migration, as another host with a newer version would."""
    folder.mkdir()
    (folder / "later.py").write_text(MIGRATION)
    config = Config()
    config.set_main_option("script_location", "retrycli:store/migrations")
    config.set_main_option("version_locations", f"retrycli:store/migrations/versions\n{folder}")
    config.set_main_option("path_separator", "newline")
    with closing(Database(application.url)) as database, database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def test_a_pass_survives_an_upgrade_and_the_next_one_asks_for_the_newer_version(
    cli: Cli, application: Application, tmp_path: Path
) -> None:
    application.add_due(20)
    with held_back() as (api, gate):
        here = cli.having(application.variables(api.url))
        process = here.start("run-once")
        assert gate.reached.wait(LONGEST)
        upgrade_further(application, tmp_path / "later")
        gate.opened.set()
        assert end(process).returncode == 0
        assert {row["status"] for row in application.rows().values()} == {"sent"}
        told = f"are at version {NEXT}, but this program needs {schema.HEAD}; install a newer retrycli"
        before = application.dump()
        for line in ("run-once", "db upgrade"):
            refused = here(*line.split())
            assert (refused.returncode, told in refused.stderr) == (78, True)
        assert application.dump() == before


def test_a_queue_of_an_unreleased_version_is_refused(at_work: Cli, application: Application) -> None:
    application.add(5)
    application.execute("UPDATE retrycli_version SET version_num = '0008'")
    for line in ("run-once", "db upgrade"):
        refused = at_work(*line.split())
        assert refused.returncode == 78
        assert "no upgrade leads from it, because it was never released" in refused.stderr
    assert application.row(5)["status"] == "failed"
