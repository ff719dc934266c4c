"""Energy of the host's CPUs and memory by the RAPL counters of the kernel."""

from __future__ import annotations

from joulebench.metrics.label_sets import ZONE
from joulebench.metrics.metric import counter, gauge

HOST_ENERGY = counter(
    "host_energy_joules_total",
    "Energy counter of a RAPL zone (energy_uj), with wrap-around undone; absent while the zone cannot be read.",
    ZONE,
)
HOST_ENERGY_UP = gauge(
    "host_energy_up",
    "1 while the zone's counter can be read, 0 where it is there and cannot, as for others than root.",
    ZONE,
    unused_because="says why a zone has no joules",
)
HOST_ENERGY_READ_ERRORS = counter(
    "host_energy_read_errors_total",
    "Failed reads of the zone's counter.",
    ZONE,
    unused_because="to find a zone that fails now and then",
)
