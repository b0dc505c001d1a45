"""An application that runs passes in its own threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.crash import scene

if TYPE_CHECKING:
    from pathlib import Path

THREADS = 4


def test_threads_with_separate_databases_each_create_their_tables(tmp_path: Path) -> None:
    """Alembic is not thread-safe: concurrent upgrades write to each other's connections."""
    stages = []
    for number in range(THREADS):
        folder = tmp_path / str(number)
        folder.mkdir()
        stages.append(scene.set_up(folder, "http://127.0.0.1:9", failed=0))
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(scene.Scene.make_tables, stages))
    assert all(stage.has_tables() for stage in stages)
