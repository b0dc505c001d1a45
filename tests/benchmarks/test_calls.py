"""A pass with one message calls few of our functions: most passes have few messages, and cron starts 96 a day."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.calls import count_calls, own_calls

if TYPE_CHECKING:
    from pathlib import Path

MAX_CALLS = 1_800
"""The maximum number of calls: 4 % more than a pass made when this limit was set."""


def test_a_pass_with_one_message_makes_few_calls(tmp_path: Path) -> None:
    calls = count_calls(tmp_path)
    assert own_calls(calls) <= MAX_CALLS, calls.most_common(20)
