"""Run random lives and check every law: a few hundred steps by default, many thousands in the long tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase

from tests.model.life import live
from tests.model.place import Place, place
from tests.store.application import Application
from tests.store.mapped import MappedApplication, prepare

if TYPE_CHECKING:
    from pathlib import Path

    from tests.store.conftest import Factory

FEW = {"sqlite": 12, "postgresql": 5}
FEW_STEPS = 150
MANY_STEPS = {"sqlite": 50_000, "postgresql": 10_000}
AT_ONCE = 200
"""The number of lives in one run. Some lives are short, so runs are repeated until there are enough steps."""
FIND_AND_SHORTEN = (Phase.generate, Phase.shrink)


@pytest.fixture(params=[Application, MappedApplication])
def here(request: pytest.FixtureRequest, engine: Factory, tmp_path: Path) -> Iterator[Place]:
    with engine(tmp_path, None) as url:
        prepare(url, request.param)
        with place(url, request.param) as it:
            yield it


@pytest.mark.databases("sqlite", "postgresql", once=True)
def test_the_laws_hold_in_a_few_lives(here: Place) -> None:
    counted = live(here, FEW[here.kind], phases=FIND_AND_SHORTEN, derandomize=True)
    assert counted.total() >= FEW_STEPS


@pytest.mark.long
@pytest.mark.databases("sqlite", "postgresql")
def test_the_laws_hold_in_many_lives(here: Place) -> None:
    wanted = MANY_STEPS[here.kind]
    counted: Counter[str] = Counter()
    while counted.total() < wanted:
        counted += live(here, AT_ONCE, phases=FIND_AND_SHORTEN)
    print(f"\n{here.kind}: {counted.total():,} steps: {dict(counted.most_common())}")
