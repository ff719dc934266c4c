"""When Prometheus has seen all of a run that has just ended: the pushed ends, and energy later than the last of them."""

from __future__ import annotations

from collections.abc import Sequence

from joulebench import metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import Clock, wait_until
from joulebench.results import queries
from joulebench.results.task import Task

SETTLED_SECONDS = 120.0
"""What Prometheus has not seen this long after a run, it will not see."""
BEYOND_SECONDS = 0.5
NEIGHBOURS_SECONDS = 6.0
"""No number of a window looks further than 5 s past its end (clock offsets do), and a scrape takes up to 1 s more."""
POLL_SECONDS = 0.25
RECENT_SECONDS = 60.0


def wait_until_scraped(api: PrometheusApi, run_id: str, tasks: Sequence[Task], seconds: float, clock: Clock) -> bool:
    """Whether everything came within ``seconds``. Raises PrometheusError.

    What is not being scraped at all (no exporter, no Pushgateway) is not waited for.
    """
    last_end = max((task.values.end for task in tasks if task.values.end is not None), default=None)
    if last_end is None or clock.unix() - last_end > SETTLED_SECONDS:
        return True
    return wait_until(lambda: _scraped(api, run_id, tasks, last_end, clock), seconds, clock, POLL_SECONDS)


def wait_until_settled(api: PrometheusApi, last_end: float, seconds: float, clock: Clock) -> bool:
    """Whether a later look at windows up to ``last_end`` (unix seconds) would find the same energy samples. Raises
    PrometheusError."""
    if clock.unix() - last_end > SETTLED_SECONDS:
        return True
    return wait_until(lambda: _energy_reaches(api, last_end + NEIGHBOURS_SECONDS), seconds, clock, POLL_SECONDS)


def _energy_reaches(api: PrometheusApi, time: float) -> bool:
    """Also where no energy is scraped at all: there is nothing to wait for."""
    energy = api.query(queries.oldest_energy_sample())
    return not energy or energy[0].points[-1][1] >= time


def _scraped(api: PrometheusApi, run_id: str, tasks: Sequence[Task], last_end: float, clock: Clock) -> bool:
    if not _energy_reaches(api, last_end + BEYOND_SECONDS):
        return False
    length = clock.unix() - min((t.values.start for t in tasks if t.values.start is not None), default=last_end) + RECENT_SECONDS
    begun = api.query(queries.last(metrics.TASK_START, length, {"run_id": run_id}))
    ended = api.query(queries.last(metrics.TASK_END, length, {"run_id": run_id}))
    finished = sum(task.values.end is not None for task in tasks)
    return not begun or len(ended) >= finished
