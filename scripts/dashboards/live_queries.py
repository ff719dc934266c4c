"""What more than one part of the live dashboard asks or shows the same way."""

from __future__ import annotations

from scripts.dashboards.fields import states
from scripts.dashboards.promql import encoded

from joulebench import metrics as m

GPU_LEGEND = "{{instance}} GPU {{gpu}}"
FIRING = 'ALERTS{alertname=~"Joulebench.+", alertstate="firing"}'
PHASES: dict[float, tuple[str, str]] = {
    0: ("idle", "transparent"),
    1: ("prefill", "purple"),
    2: ("decode", "blue"),
    3: ("tool", "orange"),
}
PHASE_STATES = states(PHASES)
PHASE_OF_WORKER = encoded(m.RUN_PHASE, "phase", m.PHASES, "run_id, worker")
