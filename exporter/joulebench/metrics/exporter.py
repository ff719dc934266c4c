"""The exporter about itself: version, clock, collectors, polls of the energy thread."""

from __future__ import annotations

from joulebench.metrics.label_sets import GPU
from joulebench.metrics.metric import counter, gauge

EXPORTER_INFO = gauge(
    "exporter_info",
    "Version of the exporter and its GPU source (nvml, amd, simulated or none), constant 1.",
    ("version", "gpu_source"),
)
EXPORTER_CLOCK = gauge(
    "exporter_clock_timestamp_seconds",
    "Wall clock of the exporter at the scrape; its distance from the time of the scrape is the clock offset.",
)
EXPORTER_CLOCK_STEPS = counter("exporter_clock_steps_total", "Steps of the exporter's wall clock against its monotonic clock.")
GPUS_EXPECTED = gauge(
    "exporter_gpus_expected",
    "GPUs that the driver lists, readable or not, and GPUs that were there within the ring; more than joulebench_gpu_up shows"
    " where a GPU cannot be named.",
    unused_because="says that a GPU is missing; windows name it as gpu_missing",
)
COLLECTOR_SUCCESS = gauge("exporter_collector_success", "1 if the collector's last collection succeeded, else 0.", ("collector",))
COLLECTOR_DURATION = gauge(
    "exporter_collector_duration_seconds",
    "Duration of the collector's last collection.",
    ("collector",),
    unused_because="to find a slow collector of the exporter",
)
METER_POLLS = counter("exporter_energy_polls_total", "Polls of the GPU by the 50 Hz energy thread.", GPU)
METER_OVERRUNS = counter(
    "exporter_energy_overruns_total",
    "Polls of the GPU that took longer than the poll period; window edges near them are less exact.",
    GPU,
)
