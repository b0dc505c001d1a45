"""Write Prometheus' text format, and the file that node_exporter's textfile collector reads.

Each database has its own file, because two files of one collector clash if they contain the same metric.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from retrycli.domain.errors import ConfigurationError
from retrycli.system.host import replace_file
from retrycli.system.process import install

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


@dataclass(frozen=True, slots=True)
class Measured:
    """The values for Prometheus. A time is None if it is not known yet."""

    version: str
    tables: str  # version of retrycli's own tables
    retry_interval_seconds: float
    first_start: datetime | None
    last_start: datetime | None
    last_success: datetime | None  # end of the last completed pass; a skipped, paused or stopped pass does not count
    last_duration_seconds: float | None
    passes: Mapping[str, int]  # counts by result, since the tables were created
    attempts: Mapping[str, int]  # counts by outcome, since the tables were created
    messages: Mapping[tuple[str, str], int]  # counts by state and type
    due: int
    oldest_waiting_seconds: float
    oldest_escalated_seconds: float
    oldest_unacknowledged_seconds: float
    paused: bool
    breakers: Mapping[str, bool]  # for each host, True if any of its destinations is down


def text(measured: Measured) -> str:
    """Return the metrics in Prometheus' text format.

    Raises:
        ConfigurationError: prometheus-client is not installed.
    """
    found = _families(measured)
    from prometheus_client.exposition import generate_latest
    from prometheus_client.registry import Collector

    class Families(Collector):
        def collect(self) -> Iterable[Metric]:
            return found

    return generate_latest(Families()).decode()


def samples(measured: Measured) -> list[dict[str, object]]:
    """Return the metrics for other programs: each value with its name and labels.

    Raises:
        ConfigurationError: prometheus-client is not installed.
    """
    return [
        {"name": sample.name, "labels": sample.labels, "value": sample.value}
        for family in _families(measured)
        for sample in family.samples
    ]


def _families(measured: Measured) -> list[Metric]:
    try:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
    except ModuleNotFoundError:
        raise ConfigurationError(f"metrics need prometheus-client: {install('metrics')}") from None
    families: list[Metric] = []
    for name, about, values, *labels in _metrics(measured):
        # The format adds _total to the name of a counter, which only goes up.
        family = (CounterMetricFamily if name in COUNTERS else GaugeMetricFamily)(name, about, labels=labels)
        for key, value in values.items() if isinstance(values, Mapping) else [((), values)]:
            if value is not None:
                number = value.timestamp() if isinstance(value, datetime) else float(value)
                family.add_metric((key,) if isinstance(key, str) else key, number)
        families.append(family)
    return families


COUNTERS = {"retrycli_passes", "retrycli_attempts"}
Values = Mapping[str, float] | Mapping[tuple[str, str], float] | float | datetime | None  # one, or one per label


def _metrics(measured: Measured) -> list[tuple[str, str, Values, *tuple[str, ...]]]:
    return [
        (
            *("retrycli_build_info", "The version of retrycli that wrote these metrics."),
            *({(measured.version, measured.tables): 1}, "version", "tables"),
        ),
        ("retrycli_retry_interval_seconds", "The configured interval between passes.", measured.retry_interval_seconds),
        ("retrycli_first_pass_start_timestamp_seconds", "When the first pass began.", measured.first_start),
        (
            "retrycli_last_pass_start_timestamp_seconds",
            "When the last pass began, including skipped passes.",
            measured.last_start,
        ),
        ("retrycli_last_pass_duration_seconds", "How long the last pass took.", measured.last_duration_seconds),
        (
            "retrycli_last_success_timestamp_seconds",
            "When the last completed pass ended; absent until a pass completes.",
            measured.last_success,
        ),
        ("retrycli_passes", "Passes that have ended.", measured.passes, "result"),
        ("retrycli_attempts", "Attempts to deliver that have an outcome.", measured.attempts, "outcome"),
        ("retrycli_messages", "Messages in the queue.", measured.messages, "state", "type"),
        ("retrycli_due_messages", "Waiting messages that the next pass would send.", measured.due),
        (
            "retrycli_oldest_waiting_age_seconds",
            "How long ago the oldest waiting message first failed; 0 if none is waiting.",
            measured.oldest_waiting_seconds,
        ),
        (
            "retrycli_oldest_escalated_age_seconds",
            "How long ago the oldest escalated message was escalated; 0 if there is none.",
            measured.oldest_escalated_seconds,
        ),
        (
            "retrycli_oldest_unacknowledged_age_seconds",
            "How long ago the oldest unacknowledged message was escalated; 0 if there is none.",
            measured.oldest_unacknowledged_seconds,
        ),
        ("retrycli_paused", "1 if deliveries are paused.", measured.paused),
        ("retrycli_breaker_open", "1 if the circuit breaker is open.", measured.breakers, "destination"),
    ]


def write(path: Path, content: str) -> None:
    """Replace a file atomically, so that no reader sees an incomplete file.

    Raises:
        ConfigurationError: the file can't be written.
    """
    try:
        replace_file(path, content)
    except OSError as error:
        raise ConfigurationError(
            f"metrics.path: can't write {path}: {error.strerror}; {_remedy(error, path)}"
        ) from error


def _remedy(error: OSError, path: Path) -> str:
    folder = path.parent
    match error:
        case FileNotFoundError():
            return f"create the folder {folder}, or use the one that node_exporter's textfile collector reads"
        case PermissionError():
            return f"give user {os.getuid()} write permission for the folder {folder}: the file is replaced as a whole"
        case IsADirectoryError():
            return "name a file in that folder"
        case _:
            return f"check the folder {folder}"
