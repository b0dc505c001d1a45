"""Deliver many messages with passes that are killed or time out, until all messages are delivered."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.cli.command import end
from tests.systems.desk import Desk, shipped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from random import Random

PATIENCE = 1.5
"""Seconds that a pass waits for an answer while passes are disturbed."""
SETTLES = 30.0
"""The settling time in seconds. It is longer than a stall and the handling of the requests that it has queued."""
KILLED_AFTER = (0.5, 3.0)
"""The seconds after which a pass is killed, from the earliest (it may still be starting) to the latest."""
LONGEST = 900
"""Seconds after which the test fails because messages are stuck."""
AT_ONCE = 40
"""The maximum number of messages that a pass delivers after the disturbances."""
DOWN = 69
"""The exit code of a pass that finds the system down. A pass can't distinguish a long stall from an outage."""
KINDS = ("customer", "supplier", "internal")
OTHERWISE = {
    "RETRYCLI_RUN__CONCURRENCY": "4",
    # `let_time_pass` does not shorten `settle_seconds`, so a message may need many retries before that time is over.
    "RETRYCLI_SCHEDULE__MAX_RETRIES": "1000",
}


@dataclass(frozen=True)
class Fire:
    """The number of messages, and of passes that are killed or meet a stalled system."""

    messages: int
    kills: int
    stalls: int


def under_fire(desk: Desk, name: str, folder: Path) -> Desk:
    """Provide the command with short timeouts, and a copy of a shipped preset with a short settling time."""
    preset = shipped(name, folder, settle_seconds=SETTLES)
    hasty = desk.having(preset=preset, request_timeout_seconds=PATIENCE)
    return Desk(hasty.cli.having(OTHERWISE), hasty.application, hasty.folder, hasty.numbers)


def fail_many(desk: Desk, tickets: Sequence[int], messages: int) -> dict[str, str]:
    """Add messages of all types to a few tickets; return their types by their texts."""
    texts = {f"Message {number} of {messages}: ü 😀": KINDS[number % len(KINDS)] for number in range(messages)}
    for number, (text, kind) in enumerate(texts.items()):
        desk.fail(tickets[number % len(tickets)], kind, body=text)
    return texts


def deliver_all(desk: Desk, fire: Fire, rng: Random, stalled: Callable[[subprocess.Popen[str]], None]) -> Counter[str]:
    """Run passes until all messages are delivered.

    Args:
        desk: the application.
        fire: how many passes are killed, and how many meet a system that stalls.
        rng: chooses the order and the times of the disturbances.
        stalled: stalls the system during a pass, and ends the stall before it returns.

    Returns:
        The number of passes of each kind, and of attempts with each outcome.
    """
    ahead = ["kill"] * fire.kills + ["stall"] * fire.stalls
    rng.shuffle(ahead)
    happened: Counter[str] = Counter()
    deadline = time.monotonic() + LONGEST
    while left := _left(desk):
        assert time.monotonic() < deadline, f"{left} messages are stuck: {happened}"
        desk.let_time_pass()
        what = ahead.pop() if ahead else "peace"
        process = _pass_in_peace(desk) if what == "peace" else desk.cli.start("run-once", "--json")
        if what == "kill":
            what = _kill(process, rng.uniform(*KILLED_AFTER))
        elif what == "stall":
            stalled(process)
        done = end(process)
        assert done.returncode in {0, DOWN, -signal.SIGKILL}, done.stderr
        happened[what] += 1
    return happened + _outcomes(desk)


def _pass_in_peace(desk: Desk) -> subprocess.Popen[str]:
    """Start a pass with enough time for answers on a busy machine, and few enough messages to end soon."""
    return desk.having(request_timeout_seconds=LONGEST).cli.start("run-once", "--limit", str(AT_ONCE), "--json")


def _kill(process: subprocess.Popen[str], seconds: float) -> str:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return "kill"
    return "too late to be killed"


def _left(desk: Desk) -> int:
    [[left]] = desk.application.asked("SELECT count(*) FROM pending_messages WHERE status <> 'sent'")
    [[escalated]] = desk.application.asked("SELECT count(*) FROM retrycli_queue WHERE state = 'escalated'")
    assert escalated == 0, desk.application.asked("SELECT last_error FROM pending_messages WHERE status = 'failed'")
    return int(left)


def _outcomes(desk: Desk) -> Counter[str]:
    """Count the attempts by outcome; those settled by a look-up are separate."""
    asked = """
        SELECT CASE WHEN error = 'found by look-up' THEN error ELSE outcome END, count(*)
        FROM retrycli_attempts GROUP BY 1
    """
    return Counter(dict(desk.application.asked(asked)))
