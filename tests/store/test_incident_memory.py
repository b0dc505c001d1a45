"""The record of which notifications each target has received."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert

from retrycli.domain.incidents import Told, Topic
from retrycli.store.passes import Targets
from retrycli.store.schema import told
from tests.store.application import HOUR, MINUTE, NOON

if TYPE_CHECKING:
    from retrycli.store.database import Database

DOWN = Told(NOON, NOON + MINUTE, times=2)
GAP = Told(NOON - HOUR, NOON, ended=True, times=0)


@pytest.fixture
def targets(database: Database) -> Targets:
    return Targets(database)


def test_each_target_remembers_its_own_topics(database: Database, targets: Targets) -> None:
    """Changed topics are replaced, missing ones deleted, and those of a newer version ignored."""
    before = {Topic.DOWN: DOWN, Topic.MISSED: GAP}
    targets.remember("a", {}, before)
    targets.remember("b", {}, {Topic.DOWN: GAP})
    with database.write() as connection:
        row = {"target": "a", "topic": "weather", "since": NOON, "told_at": NOON, "ended": False, "times": 1}
        connection.execute(insert(told).values(row))
    assert (targets.memory("a"), targets.memory("b"), targets.memory("c")) == (before, {Topic.DOWN: GAP}, {})
    targets.remember("a", before, {Topic.DOWN: GAP})
    assert targets.memory("a") == {Topic.DOWN: GAP}


def test_unchanged_topics_keep_the_values_of_another_pass(targets: Targets) -> None:
    before = {Topic.DOWN: DOWN}
    targets.remember("a", {}, before)
    targets.remember("a", before, {Topic.DOWN: GAP})
    targets.remember("a", before, before | {Topic.SKIPPED: GAP})
    assert targets.memory("a") == {Topic.DOWN: GAP, Topic.SKIPPED: GAP}


def test_only_one_of_two_passes_notifies_until_it_has_died(targets: Targets) -> None:
    assert targets.begin_telling(NOON, NOON + MINUTE)
    assert targets.memory("everybody") == {}, "the mark is not a target"
    assert not targets.begin_telling(NOON + MINUTE - timedelta.resolution, NOON + 2 * MINUTE)
    assert targets.begin_telling(NOON + MINUTE, NOON + 2 * MINUTE)
    targets.end_telling()
    assert targets.begin_telling(NOON + MINUTE, NOON + 2 * MINUTE)
