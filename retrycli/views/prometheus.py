"""Write Prometheus' text format, and the file that node_exporter's textfile collector reads.

A collector rejects the same series in two files, so it can read the metrics of only one database.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from retrycli.domain.errors import ConfigurationError
from retrycli.system.host import replace_file
from retrycli.system.process import install

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


# A number, a time, or a number for each label value or pair of label values; None if there is no value yet, for example
# before the first pass.
Values = Mapping[str, float] | Mapping[tuple[str, str], float] | float | datetime | None

# The description and the labels of each metric. Counters count from the creation of retrycli's own tables.
METRICS = {
    "retrycli_build_info": (
        "Always 1; the labels are the versions of retrycli and of its tables.",
        "version",
        "tables",
    ),
    "retrycli_retry_interval_seconds": ("The configured interval between passes.",),
    "retrycli_first_pass_start_timestamp_seconds": ("Start time of the first pass.",),
    "retrycli_last_pass_start_timestamp_seconds": ("Start time of the last pass, including skipped passes.",),
    "retrycli_last_pass_duration_seconds": ("Duration of the last pass that has ended, including skipped passes.",),
    "retrycli_last_success_timestamp_seconds": ("End time of the last completed pass; absent until a pass completes.",),
    "retrycli_passes": ("Passes that have ended.", "result"),
    "retrycli_attempts": ("Delivery attempts that have an outcome.", "outcome"),
    "retrycli_messages": ("Messages in the queue.", "state", "type"),
    "retrycli_due_messages": ("Waiting messages that are due.",),
    "retrycli_oldest_waiting_age_seconds": (
        "Time since the oldest waiting message first failed; 0 if no message is waiting.",
    ),
    "retrycli_oldest_escalated_age_seconds": ("Time since the oldest escalation; 0 if no message is escalated.",),
    "retrycli_oldest_unacknowledged_age_seconds": (
        "Time since the oldest unacknowledged escalation; 0 if all escalations are acknowledged.",
    ),
    "retrycli_paused": ("1 if deliveries are paused.",),
    "retrycli_breaker_open": (
        "1 if the circuit breaker is open, or the destination only asks retrycli to wait.",
        "destination",
    ),
}
COUNTERS = {"retrycli_passes", "retrycli_attempts"}

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # of what `text` returns


def text(measured: Mapping[str, Values]) -> str:
    """Return measured values, given by the names in `METRICS`, in Prometheus' text format.

    Raises:
        ConfigurationError: prometheus-client is not installed.
    """
    found = _families(measured)
    from prometheus_client import exposition, registry

    class Families(registry.Collector):
        def collect(self) -> Iterable[Metric]:
            return found

    return exposition.generate_latest(Families()).decode()


def samples(measured: Mapping[str, Values]) -> list[dict[str, object]]:
    """Return the metrics for other programs: each value with its name and labels.

    Raises:
        ConfigurationError: prometheus-client is not installed.
    """
    return [
        {"name": sample.name, "labels": sample.labels, "value": sample.value}
        for family in _families(measured)
        for sample in family.samples
    ]


def _families(measured: Mapping[str, Values]) -> list[Metric]:
    try:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
    except ModuleNotFoundError:
        raise ConfigurationError(f"metrics need prometheus-client; run `{install('metrics')}`") from None
    families: list[Metric] = []
    for name, (about, *labels) in METRICS.items():
        values = measured[name]
        # prometheus-client adds _total to the name of a counter.
        family = (CounterMetricFamily if name in COUNTERS else GaugeMetricFamily)(name, about, labels=labels)
        for key, value in values.items() if isinstance(values, Mapping) else [((), values)]:
            if value is not None:
                number = value.timestamp() if isinstance(value, datetime) else float(value)
                family.add_metric((key,) if isinstance(key, str) else key, number)
        families.append(family)
    return families


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
            return f"give user {os.getuid()} write permission on the folder {folder}, not only on the file"
        case IsADirectoryError():
            return "name a file in that folder"
        case _:
            return f"check the folder {folder}"
