"""Run generated lives in a SQLite file: ``python -m tests.model FILE LIVES TABLE [STEP...]``.

TABLE is ``usual`` or ``mapped``. If steps are given, the lives have only these steps. A broken law causes a traceback.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from hypothesis import Phase

from tests.model.life import live
from tests.model.place import place
from tests.store.application import Application
from tests.store.mapped import MappedApplication, prepare

TABLES: dict[str, type[Application]] = {"usual": Application, "mapped": MappedApplication}


def main(file: str, number: str, table: str, *steps: str) -> None:
    logging.disable()
    Path(file).touch()
    url = f"sqlite:///{file}"
    prepare(url, TABLES[table])
    with place(url, TABLES[table]) as here:
        live(here, int(number), phases=(Phase.generate,), derandomize=True, steps=steps)


if __name__ == "__main__":
    main(*sys.argv[1:])
