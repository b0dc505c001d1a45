"""The command, with an eye on what it reads: ``python -m tests.cli.watched MARK ARGUMENTS…``.

Each statement whose rows have the mark in them is named on stderr. It is carried out a second time for that.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event

from retrycli.cli import run

if TYPE_CHECKING:
    from sqlalchemy import Connection

FOUND = "read with the mark: "


def main(mark: str) -> None:
    def look(connection: Connection, _cursor: object, statement: str, values: Any, *_: object) -> None:  # noqa: ANN401
        if not statement.startswith("SELECT"):
            return
        cursor = connection.connection.cursor()
        cursor.execute(statement, values)
        if any(mark in str(value) for row in cursor.fetchall() for value in row):
            print(FOUND + " ".join(statement.split()), file=sys.stderr)
        cursor.close()

    event.listen(Engine, "before_cursor_execute", look)
    run()


if __name__ == "__main__":
    main(sys.argv.pop(1))
