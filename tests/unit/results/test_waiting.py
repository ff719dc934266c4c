"""Waiting for the last scrape: as long as something is missing that is being scraped, and no longer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from joulebench.clients.prometheus import PrometheusApi
from joulebench.results.fetch import wait_until_scraped
from joulebench.results.task import Task, TaskKey, TaskValues
from joulebench.units import Seconds
from tests.unit.clients.test_prometheus_api import Answer, serving, success

END = 1000.0
TASKS = [
    Task(TaskKey("t", "w"), TaskValues(start=990.0, end=END), {}),
    Task(TaskKey("going on", "w"), TaskValues(start=995.0), {}),
]


class Ticking:
    """A wall clock shortly after the run, and a monotonic one that gains a second at every look."""

    def __init__(self, now: float = END + 1.0) -> None:
        self.now = now
        self.ticks: Iterator[int] = iter(range(1000))

    def unix(self) -> Seconds:
        return Seconds(self.now)

    def monotonic(self) -> Seconds:
        return Seconds(float(next(self.ticks)))


def one(value: float) -> Answer:
    return success("vector", [{"metric": {}, "value": [END, str(value)]}])


NOTHING = success("vector", [])


def waited(seconds: float, *answers: Answer, tasks: list[Task] = TASKS, now: float = END + 1.0) -> tuple[bool, int]:
    with serving(*answers) as served:
        api = PrometheusApi(served.url)
        result = wait_until_scraped(api, "r", tasks, seconds, Ticking(now))
        api.close()
        return result, len(served.queries)


def test_energy_beyond_the_end_and_every_pushed_end_are_waited_for() -> None:
    late_energy, energy = one(END), one(END + 0.6)
    answers = [late_energy, energy, one(990), NOTHING, energy, one(990), one(END)]
    assert waited(10.0, *answers) == (True, 7)


def test_patience_ends() -> None:
    assert waited(2.0, one(END)) == (False, 2)


def test_what_is_not_scraped_at_all_is_not_waited_for() -> None:
    assert waited(10.0, NOTHING) == (True, 3)


@pytest.mark.parametrize(("tasks", "now"), [(TASKS, END + 500.0), (TASKS[1:], END), ([], END)])
def test_old_runs_and_runs_without_an_end_ask_nothing(tasks: list[Task], now: float) -> None:
    assert waited(10.0, NOTHING, tasks=tasks, now=now) == (True, 0)
