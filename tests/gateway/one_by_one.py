"""A process that delivers a message to one server after the other, and reports its memory: see `peaks`."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from retrycli.config.gateway import RoutedGatewaySettings
from tests.gateway.deliveries import open_gateway, queued

ROOT = Path(__file__).parents[2]


def peaks(servers: Sequence[Mapping[str, object]]) -> list[float]:
    """Return a process's peak memory in MiB, at its start and after each delivery.

    Args:
        servers: the gateway's settings for each server.
    """
    command = [sys.executable, "-m", "tests.gateway.one_by_one"]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(servers), stdout=subprocess.PIPE, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


async def _deliver_to_each(servers: Sequence[Mapping[str, object]]) -> None:
    print(_peak())
    for server in servers:
        async with open_gateway(RoutedGatewaySettings.model_validate(server)) as gateway:
            await gateway.deliver(queued())
        print(_peak())


def _peak() -> float:
    """Return this process's peak memory in MiB; getrusage would include the peak of its parent."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    asyncio.run(_deliver_to_each(json.load(sys.stdin)))
