"""The exporter about itself: what it is, whether its collectors work, how well the energy thread keeps its pace."""

from __future__ import annotations

from joulebench.metrics.label_sets import GPU
from joulebench.metrics.metric import counter, gauge

EXPORTER_INFO = gauge(
    "exporter_info", "1, with the exporter's version and its GPU source: nvml, simulated or none.", ("version", "gpu_source")
)
EXPORTER_CLOCK = gauge("exporter_clock_timestamp_seconds", "The exporter's wall clock at the scrape; shows clock offset.")
EXPORTER_CLOCK_STEPS = counter("exporter_clock_steps_total", "Times the wall clock jumped against the monotonic clock.")
COLLECTOR_SUCCESS = gauge(
    "exporter_collector_success", "1 when the collector's last collection succeeded, else 0.", ("collector",)
)
COLLECTOR_DURATION = gauge("exporter_collector_duration_seconds", "Time of the collector's last collection.", ("collector",))
METER_POLLS = counter("exporter_energy_polls_total", "Polls of the 50 Hz energy thread, by GPU.", GPU)
METER_OVERRUNS = counter(
    "exporter_energy_overruns_total",
    "Polls that took longer than the poll period, by GPU; energy edges are less exact around them.",
    GPU,
)
