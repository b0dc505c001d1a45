"""What targets of notifications have been told, on every engine."""

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


def test_a_target_that_nobody_has_told_anything_knows_nothing(targets: Targets) -> None:
    assert targets.memory("a") == {}


def test_what_a_target_knows_is_kept_for_each_on_its_own(targets: Targets) -> None:
    targets.remember("a", {}, {Topic.DOWN: DOWN, Topic.MISSED: GAP})
    targets.remember("b", {}, {Topic.DOWN: GAP})
    assert targets.memory("a") == {Topic.DOWN: DOWN, Topic.MISSED: GAP}
    assert targets.memory("b") == {Topic.DOWN: GAP}


def test_what_has_changed_is_replaced_and_what_is_gone_is_forgotten(targets: Targets) -> None:
    before = {Topic.DOWN: DOWN, Topic.MISSED: GAP}
    targets.remember("a", {}, before)
    targets.remember("a", before, {Topic.DOWN: GAP})
    assert targets.memory("a") == {Topic.DOWN: GAP}


def test_what_has_not_changed_is_left_as_another_pass_may_have_set_it(targets: Targets) -> None:
    before = {Topic.DOWN: DOWN}
    targets.remember("a", {}, before)
    targets.remember("a", before, {Topic.DOWN: GAP})
    targets.remember("a", before, before | {Topic.SKIPPED: GAP})
    assert targets.memory("a") == {Topic.DOWN: GAP, Topic.SKIPPED: GAP}


def test_of_two_passes_one_tells(targets: Targets) -> None:
    assert targets.begin_telling(NOON, NOON + MINUTE)
    assert not targets.begin_telling(NOON, NOON + MINUTE)
    targets.end_telling()
    assert targets.begin_telling(NOON, NOON + MINUTE)


def test_a_pass_that_died_while_it_told_people_keeps_the_others_from_it_for_a_while_only(targets: Targets) -> None:
    assert targets.begin_telling(NOON, NOON + MINUTE)
    assert not targets.begin_telling(NOON + MINUTE / 2, NOON + 2 * MINUTE)
    assert targets.begin_telling(NOON + MINUTE, NOON + 2 * MINUTE)


def test_that_somebody_is_telling_is_no_target(targets: Targets) -> None:
    assert targets.begin_telling(NOON, NOON + MINUTE)
    assert targets.memory("everybody") == {}


def test_a_topic_of_a_newer_program_is_left_out(database: Database, targets: Targets) -> None:
    with database.write() as connection:
        row = {"target": "a", "topic": "weather", "since": NOON, "told_at": NOON, "ended": False, "times": 1}
        connection.execute(insert(told).values(row))
    assert targets.memory("a") == {}
