"""Count the Python calls of a pass with one message: ``python -m tests.benchmarks.calls``.

On a busy machine a pass waits longer, and makes some more calls. The count excludes the calls made by imports, and by
the first parse of the preset.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections import Counter
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import TYPE_CHECKING

import retrycli
from retrycli.gateway.presets.loader import load_preset
from tests.benchmarks import contenders
from tests.benchmarks.processes import Server, run

if TYPE_CHECKING:
    from types import FrameType

SHOWN = 25


def count_calls(folder: Path) -> Counter[str]:
    """Return how often each Python function is called, by its file and name."""
    database = f"sqlite:///{folder}/messages.db"
    counts: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            counts[f"{frame.f_code.co_filename}:{frame.f_code.co_name}"] += 1

    with Server(delay_ms=0) as server:
        settings = retrycli.Settings.model_validate(
            {
                "database": {"url": database},
                "gateway": {"base_url": server.url},
                "run": {"lock_file": folder / "pass.lock"},
            }
        )
        first = contenders.retrycli(8)
        first.add(database, 1)
        run(first.call(database, server.url))  # creates the tables
        first.add(database, 1)
        for package in ("domain", "engine", "gateway", "operations", "store", "system", "views"):
            for module in walk_packages([f"{retrycli.__path__[0]}/{package}"], f"retrycli.{package}."):
                if "migrations" not in module.name:
                    import_module(module.name)  # otherwise a call would be counted if it is made by a late import
        load_preset(settings.gateway.preset)  # another test of this process may have parsed it
        threading.setprofile(count)
        sys.setprofile(count)
        try:
            summary = retrycli.run_once(settings)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    assert summary.sent == 1, summary
    return counts


def own_calls(counts: Counter[str]) -> int:
    """Return how many of the calls go to functions of the package."""
    package = str(Path(retrycli.__file__).parent)
    return sum(number for name, number in counts.items() if name.startswith(package))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        counts = count_calls(Path(folder))
    print(f"{counts.total():,} Python calls in a pass with one message, {own_calls(counts):,} of them in retrycli")
    for name, number in counts.most_common(SHOWN):
        print(f"{number:8,}  {name.partition('site-packages/')[2] or name}")


if __name__ == "__main__":
    main()
