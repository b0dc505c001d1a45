"""Measure the report of a week's attempts: the time of the whole process, and the size of the page."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tests.benchmarks.processes import Call, Sample, run
from tests.benchmarks.tables import table

ATTEMPTS = (0, 100_000, 1_000_000)
PAGE = "report.html"


def report(rounds: int) -> str:
    """Measure the pages in turn; return a table of the medians."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for attempts in ATTEMPTS:
            run(Call(("-m", "tests.history", str(folder / f"{attempts}.db"), str(attempts))))
        sizes = {}
        samples: dict[int, list[Sample]] = {attempts: [] for attempts in ATTEMPTS}
        for number in range(rounds + 1):
            for attempts in ATTEMPTS:
                taken = run(_call(folder / f"{attempts}.db", folder / PAGE))
                sizes[attempts] = (folder / PAGE).stat().st_size / 1024
                samples[attempts] += [taken] if number else []  # the first round is the warm-up
    rows = [
        (
            f"{attempts:,}",
            f"{median(sample.seconds for sample in samples[attempts]):.2f}",
            f"{median(sample.peak_mib for sample in samples[attempts]):.0f}",
            f"{sizes[attempts]:.0f}",
        )
        for attempts in ATTEMPTS
    ]
    return table(f"A report, medians of {rounds}", ("attempts", "seconds", "peak MiB", "KiB"), rows)


def _call(database: Path, page: Path) -> Call:
    return Call(("-m", "retrycli", "report", "--html", str(page)), {"RETRYCLI_DATABASE__URL": f"sqlite:///{database}"})
