"""The record of which notifications each target has received."""

from __future__ import annotations

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


def test_a_new_target_has_no_memory(targets: Targets) -> None:
    assert targets.memory("a") == {}


def test_each_targets_memory_is_separate(targets: Targets) -> None:
    targets.remember("a", {}, {Topic.DOWN: DOWN, Topic.MISSED: GAP})
    targets.remember("b", {}, {Topic.DOWN: GAP})
    assert targets.memory("a") == {Topic.DOWN: DOWN, Topic.MISSED: GAP}
    assert targets.memory("b") == {Topic.DOWN: GAP}


def test_changed_topics_are_replaced_and_missing_ones_deleted(targets: Targets) -> None:
    before = {Topic.DOWN: DOWN, Topic.MISSED: GAP}
    targets.remember("a", {}, before)
    targets.remember("a", before, {Topic.DOWN: GAP})
    assert targets.memory("a") == {Topic.DOWN: GAP}


def test_unchanged_topics_keep_the_values_of_another_pass(targets: Targets) -> None:
    before = {Topic.DOWN: DOWN}
    targets.remember("a", {}, before)
    targets.remember("a", before, {Topic.DOWN: GAP})
    targets.remember("a", before, before | {Topic.SKIPPED: GAP})
    assert targets.memory("a") == {Topic.DOWN: GAP, Topic.SKIPPED: GAP}


def test_only_one_of_two_passes_notifies(targets: Targets) -> None:
    assert targets.begin_telling(NOON, NOON + MINUTE)
    assert not targets.begin_telling(NOON, NOON + MINUTE)
    targets.end_telling()
    assert targets.begin_telling(NOON, NOON + MINUTE)


def test_a_pass_that_died_while_notifying_blocks_others_only_for_a_while(targets: Targets) -> None:
    assert targets.begin_telling(NOON, NOON + MINUTE)
    assert not targets.begin_telling(NOON + MINUTE / 2, NOON + 2 * MINUTE)
    assert targets.begin_telling(NOON + MINUTE, NOON + 2 * MINUTE)


def test_the_mark_of_a_notifying_pass_is_not_a_target(targets: Targets) -> None:
    assert targets.begin_telling(NOON, NOON + MINUTE)
    assert targets.memory("everybody") == {}


def test_a_topic_of_a_newer_version_is_ignored(database: Database, targets: Targets) -> None:
    with database.write() as connection:
        row = {"target": "a", "topic": "weather", "since": NOON, "told_at": NOON, "ended": False, "times": 1}
        connection.execute(insert(told).values(row))
    assert targets.memory("a") == {}
