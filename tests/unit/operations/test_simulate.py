"""The operation behind ``simulate``: which passes, messages and types it covers, and the settings it proposes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from retrycli.config.settings import DatabaseSettings, Settings
from retrycli.domain.errors import InvalidSchedule, TooLittleHistory
from retrycli.domain.message import MessageType
from retrycli.operations import simulate as operation
from retrycli.operations.simulate import ENOUGH, fields, simulate
from tests.fakes import START, TICK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from retrycli.domain.simulation import Simulation
    from tests.fakes import Stage

HOUR = timedelta(hours=1)
MESSAGES = 60
PASSES = 24


def settings_of(stage: Stage, **schedule: object) -> Settings:
    url = DatabaseSettings(url=f"sqlite:///{stage.path}")
    return Settings.model_validate({"schedule": schedule}).model_copy(update={"database": url})


def run_passes(stage: Stage) -> None:
    """Run passes for six hours. Ten messages fail every hour, every second one to a supplier."""
    for number in range(PASSES):
        if number % 4 == 0:
            at = str(stage.clock.now.replace(tzinfo=None))
            first = 1 + number * 10 // 4
            for of, ids in (("supplier", range(first, first + 10, 2)), ("customer", range(first + 1, first + 10, 2))):
                stage.add(*ids, created_at=at, updated_at=at, message_type=of)
        stage.run()
        stage.clock.now += TICK


@pytest.fixture
def recorded(stage: Stage) -> Stage:
    run_passes(stage)
    return stage


def simulated(
    stage: Stage, changes: Mapping[str, object] | None = None, of: MessageType | None = None, **schedule: object
) -> Simulation:
    return simulate(settings_of(stage, **schedule), changes or {}, message_type=of, now=lambda: stage.clock.now)


def value(found: Simulation, name: str) -> int | None:
    return (found.proposed or found.today).figures[name].value


def test_a_time_without_passes_that_deliver_delivers_nothing(recorded: Stage) -> None:
    """Paused and skipped passes are like missing ones: whatever the schedule, nothing is sent then."""
    assert value(simulated(recorded), "delivered_within_1h") == MESSAGES
    for result in ("paused", "skipped", "failed"):
        recorded.sql("UPDATE retrycli_passes SET result = ? WHERE started_at > ?", result, str(START + HOUR)[:19])
        found = simulated(recorded)
        late = value(found, "delivered_within_1h")
        assert late is not None
        assert 10 <= late < 20 + 10


def test_a_pruned_history_counts_from_its_first_pass(recorded: Stage) -> None:
    """Pruning keeps deliveries whose passes and failures are gone, so the older messages would all look delivered."""
    recorded.sql("DELETE FROM retrycli_passes WHERE started_at < ?", str(START + 3 * HOUR)[:19])
    found = simulated(recorded)
    assert found.since == START + 3 * HOUR
    assert value(found, "messages") == 30


def test_a_change_for_one_type_leaves_the_others_alone(recorded: Stage) -> None:
    changes = {"backoff": "fixed", "base_minutes": 120}
    found = simulated(recorded, changes, MessageType.SUPPLIER)
    assert found.proposed is not None
    assert (value(found, "messages"), value(found, "delivered_within_1h")) == (30, 0)
    assert found.today.figures["delivered_within_1h"].value == 30
    assert (found.section, list(found.lines)) == (
        "schedule.types.supplier",
        ['backoff = "fixed"', "base_minutes = 120"],
    )
    assert found.proposed.description == "fixed 2 h, 10 retries"


def test_a_type_with_its_own_schedule_keeps_it(recorded: Stage) -> None:
    own = {"supplier": {"backoff": "fixed", "base_minutes": 30}}
    found = simulated(recorded, {"max_retries": 3}, types=own)
    assert found.proposed is not None
    assert found.proposed.description == (
        "customer, internal: exponential from 15 min by 2 to 4 h, 3 retries; supplier: fixed 30 min, 3 retries"
    )


def test_values_may_be_texts_as_a_form_sends_them(recorded: Stage) -> None:
    as_text = simulated(recorded, {"backoff": "list", "waits_minutes": "20, 40", "max_retries": "4"})
    as_values = simulated(recorded, {"backoff": "list", "waits_minutes": [20, 40], "max_retries": 4})
    assert fields(as_text) == fields(as_values)
    assert list(as_text.lines) == ['backoff = "list"', "waits_minutes = [20, 40]", "max_retries = 4"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_retries": 0}, "schedule.max_retries: Input should be greater than or equal to 1"),
        ({"max_retries": "9" * 5000}, "schedule.max_retries: "),
        (
            {"backoff": "<script>"},
            "schedule.backoff: Input should be 'exponential', 'linear', 'fixed', 'list' or",
        ),
        ({"colour": "red"}, "schedule.colour: no such setting"),
        ({"base_minutes": None}, "schedule.base_minutes: Input should be a valid number"),
        ({"waits_minutes": "\0"}, "schedule.waits_minutes.0: Input should be a valid number"),
    ],
)
def test_an_invalid_schedule_is_an_error_of_its_own(stage: Stage, changes: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidSchedule) as raised:
        simulated(stage, changes)
    assert str(raised.value).startswith(said)
    assert "script" not in str(raised.value)
    assert str(raised.value).endswith("`retrycli manual settings` lists every setting")


def test_too_little_history_is_an_error(stage: Stage) -> None:
    with pytest.raises(TooLittleHistory, match=f"at least {ENOUGH} of each are needed"):
        simulated(stage)


@pytest.mark.parametrize("of", [*MessageType, None])
def test_just_enough_history_is_simulated(stage: Stage, of: MessageType | None) -> None:
    at = str(START.replace(tzinfo=None))
    stage.add(*range(1, ENOUGH + 1), created_at=at, updated_at=at, message_type=of or "customer")
    for _ in range(3):
        stage.run()
        stage.clock.now += TICK
    assert value(simulated(stage, of=of), "messages") == ENOUGH
    stage.sql("DELETE FROM retrycli_attempts WHERE message_id = 1")
    with pytest.raises(TooLittleHistory, match=f"{ENOUGH - 1} messages.* first failed"):
        simulated(stage, of=of)


def test_a_long_history_is_replayed_less_often() -> None:
    numbers = [number for _, number in operation.REPLAYS]
    assert all(number % 2 for number in numbers), "the median of an odd number of replays is one of them"
    assert numbers == sorted(numbers, reverse=True)


def test_a_table_without_a_base_url_is_simulated_as_one_destination(recorded: Stage) -> None:
    with_url = settings_of(recorded).model_copy(
        update={"gateway": Settings.model_validate({"gateway": {"base_url": "https://x.example"}}).gateway}
    )
    assert settings_of(recorded).gateway.base_url is None
    found = simulate(with_url, {}, now=lambda: recorded.clock.now)
    assert found.today == simulated(recorded).today
