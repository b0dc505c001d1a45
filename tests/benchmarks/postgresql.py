"""Run a PostgreSQL server with its databases while standard input is open.

It runs as a separate process because the measuring process must stay small: see `processes.run_together`.

Each input line has one output line: `new` and `copy URL` create a database, empty or like another, and print its URL.
`settle URL` vacuums and analyzes, as autovacuum would have done before a pass. `drop URL` deletes a database.
"""

from __future__ import annotations

import sys
from itertools import count

from sqlalchemy import Engine, create_engine, make_url, text

from tests import postgresql

numbers = count(1)


def perform(engine: Engine, command: str, url: str = "") -> str:
    with engine.connect() as connection:
        match command:
            case "new" | "copy":
                name = f"retrycli_benchmark_{next(numbers)}"
                like = f" TEMPLATE {make_url(url).database}" if command == "copy" else ""
                connection.execute(text(f"CREATE DATABASE {name}{like}"))
                connection.execute(text("CHECKPOINT"))  # so that no checkpoint runs during a measurement
                return engine.url.set(database=name).render_as_string(hide_password=False)
            case "settle":
                there = create_engine(url, isolation_level="AUTOCOMMIT")
                with there.connect() as inside:
                    inside.execute(text("VACUUM ANALYZE"))
                there.dispose()  # a database with connections cannot be copied
                return url
            case "drop":
                connection.execute(text(f"DROP DATABASE {make_url(url).database} WITH (FORCE)"))
                return url
            case _:
                sys.exit(__doc__)


def main() -> None:
    engine = create_engine(postgresql.server(for_keeps=True), isolation_level="AUTOCOMMIT")
    for line in sys.stdin:
        print(perform(engine, *line.split()), flush=True)
    engine.dispose()


if __name__ == "__main__":
    main()
