"""Start a bare command and count the failed messages: `bare_command.py DATABASE`.

It is the least that a command with the libraries of an idle pass can do.
"""

from __future__ import annotations

import typer
from sqlalchemy import create_engine, text


def main(database: str) -> None:
    with create_engine(database).connect() as connection:
        print(connection.execute(text("SELECT count(*) FROM pending_messages WHERE status = 'failed'")).scalar_one())


if __name__ == "__main__":
    typer.run(main)
