"""Write Prometheus' text format, and the file that node_exporter's textfile collector reads.

Each database has a file of its own: two files of one collector clash if they hold the same metric.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from retrycli.domain.errors import ConfigurationError
from retrycli.system import atomic
from retrycli.system.python import install

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


@dataclass(frozen=True, slots=True)
class Measured:
    """The values for Prometheus. A time is None if there is none yet."""

    version: str
    tables: str
    """The version of retrycli's own tables."""
    retry_interval_seconds: float
    first_start: datetime | None
    last_start: datetime | None
    last_success: datetime | None
    """The end of the last completed pass. A skipped, paused or stopped pass does not count."""
    last_duration_seconds: float | None
    passes: Mapping[str, int]
    """Counts by result, since the tables were made."""
    attempts: Mapping[str, int]
    """Counts by outcome, since the tables were made."""
    messages: Mapping[tuple[str, str], int]
    """Counts by state and type."""
    due: int
    oldest_waiting_seconds: float
    oldest_escalated_seconds: float
    oldest_unacknowledged_seconds: float
    paused: bool
    breakers: Mapping[str, bool]
    """Whether each host is down: if it has several destinations, whether any of them is."""


def text(measured: Measured) -> str:
    """Return the metrics in Prometheus' text format.

    Raises:
        ConfigurationError: prometheus-client is not installed.
    """
    found = _families(measured)
    from prometheus_client.exposition import generate_latest
    from prometheus_client.registry import Collector, CollectorRegistry

    class Families(Collector):
        def collect(self) -> Iterable[Metric]:
            return found

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Families())
    return generate_latest(registry).decode()


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
        return list(_metrics(measured))
    except ModuleNotFoundError:
        raise ConfigurationError(f"metrics need prometheus-client: {install('metrics')}") from None


def _metrics(measured: Measured) -> Iterator[Metric]:
    yield _gauge(
        "retrycli_build_info",
        "Which retrycli wrote this.",
        {(measured.version, measured.tables): 1},
        "version",
        "tables",
    )
    yield _gauge("retrycli_retry_interval_seconds", "How often a pass should begin.", measured.retry_interval_seconds)
    yield _gauge("retrycli_first_pass_start_timestamp_seconds", "When the first pass began.", _at(measured.first_start))
    yield _gauge(
        "retrycli_last_pass_start_timestamp_seconds",
        "When the last pass began, a skipped one too.",
        _at(measured.last_start),
    )
    yield _gauge("retrycli_last_pass_duration_seconds", "How long the last pass took.", measured.last_duration_seconds)
    yield _gauge(
        "retrycli_last_success_timestamp_seconds",
        "When the last completed pass ended; not there until one has.",
        _at(measured.last_success),
    )
    yield _counter("retrycli_passes", "Passes that have ended.", measured.passes, "result")
    yield _counter("retrycli_attempts", "Attempts to deliver that have an outcome.", measured.attempts, "outcome")
    yield _gauge("retrycli_messages", "Messages in the queue.", measured.messages, "state", "type")
    yield _gauge("retrycli_due_messages", "Waiting messages that the next pass would send.", measured.due)
    yield _gauge(
        "retrycli_oldest_waiting_age_seconds",
        "How long ago the oldest waiting message first failed; 0 where none waits.",
        measured.oldest_waiting_seconds,
    )
    yield _gauge(
        "retrycli_oldest_escalated_age_seconds",
        "How long ago the oldest escalated message was escalated; 0 where none is.",
        measured.oldest_escalated_seconds,
    )
    yield _gauge(
        "retrycli_oldest_unacknowledged_age_seconds",
        "How long ago the oldest escalated message without acknowledgement was escalated; 0 if there is none.",
        measured.oldest_unacknowledged_seconds,
    )
    yield _gauge("retrycli_paused", "Whether deliveries are paused.", float(measured.paused))
    breakers = {host: float(is_open) for host, is_open in measured.breakers.items()}
    yield _gauge("retrycli_breaker_open", "1 if the circuit breaker is open.", breakers, "destination")


Values = Mapping[str, float] | Mapping[tuple[str, str], float]


def _gauge(name: str, about: str, values: Values | float | None, *labels: str) -> Metric:
    """Return a metric that goes up and down: one value, one by label, or none yet."""
    from prometheus_client.metrics_core import GaugeMetricFamily

    family = GaugeMetricFamily(name, about, labels=labels)
    if isinstance(values, Mapping):
        for key, value in values.items():
            family.add_metric((key,) if isinstance(key, str) else key, value)
    elif values is not None:
        family.add_metric((), values)
    return family


def _counter(name: str, about: str, values: Mapping[str, int], label: str) -> Metric:
    """Return a metric that only goes up; the format adds ``_total`` to its name."""
    from prometheus_client.metrics_core import CounterMetricFamily

    family = CounterMetricFamily(name, about, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _at(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


def write(path: Path, content: str) -> None:
    """Replace a file atomically, so that no reader sees a part of one.

    Raises:
        ConfigurationError: it can't be written.
    """
    try:
        atomic.replace(path, content)
    except OSError as error:
        raise ConfigurationError(
            f"metrics.path: can't write {path}: {error.strerror}; {_remedy(error, path)}"
        ) from error


def _remedy(error: OSError, path: Path) -> str:
    folder = path.parent
    match error:
        case FileNotFoundError():
            return f"make the folder {folder}, or name the one that node_exporter's textfile collector reads"
        case PermissionError():
            return f"let user {os.getuid()} write in the folder {folder}: the file is replaced as a whole"
        case IsADirectoryError():
            return "name a file in it"
        case _:
            return f"look after the folder {folder}"
