"""A bug in one of the library's own threads is counted and shown, and everything that follows is pushed all the same."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from joulebench import Run, metrics
from joulebench.clients.exporter import EnergyWindow
from joulebench.clock import SystemClock
from joulebench.push.energy import ExporterEnergyRequests
from joulebench.push.journal import Journal
from joulebench.push.recorder import NullPushes
from joulebench.units import Seconds
from tests.unit.push.conftest import FakeExporter, events, eventually, scrape, serving


class FailingClock(SystemClock):
    """Raises in the named thread, ``failures`` times: a bug that nobody thought of, from the outside."""

    def __init__(self, thread: str, failures: int) -> None:
        self.thread, self.failures = thread, failures

    def unix(self) -> Seconds:
        if threading.current_thread().name == self.thread and self.failures > 0:
            self.failures -= 1
            raise ZeroDivisionError("a bug")
        return Seconds(super().unix())


@pytest.mark.parametrize("loop", ["push", "energy"])
def test_an_error_in_a_background_thread_is_shown_and_survived(
    loop: str, tmp_path: Path, gateway: Any, caplog: pytest.LogCaptureFixture
) -> None:
    exporter, clock = FakeExporter(), FailingClock(f"joulebench-{loop}", 2)
    with (
        caplog.at_level(logging.ERROR),
        serving(exporter),
        Run(
            model="m", runs_dir=tmp_path, gateway_url=gateway.url, prometheus_url="none", exporter_url=exporter.url, clock=clock
        ) as run,
    ):
        for number in range(6):
            with run.task(f"t{number}"):
                pass
        eventually(lambda: clock.failures == 0)
        with run.task("last"):
            pass
    samples = scrape(gateway.url)
    ended = {labels["task_id"] for name, labels, _ in samples if name == metrics.TASK_END.name}
    assert ended == {*(f"t{number}" for number in range(6)), "last"}
    counts = {labels["loop"]: value for name, labels, value in samples if name == metrics.LOOP_ERRORS.name}
    assert counts[loop] == 2
    (state,) = events(run.directory, "PUSH_STATE")
    assert (state["loop_errors"], state["groups_unpushed"]) == (2, 0)
    assert f"background loop {loop}: ZeroDivisionError: a bug" in state["reasons"]
    tracebacks = [record for record in caplog.records if record.exc_info is not None]
    assert len(tracebacks) == 1, "logged once, counted twice"


def test_windows_that_wait_are_bounded_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter is never asked here: the requests are not started."""
    monkeypatch.setattr("joulebench.push.energy.MAX_WAITING", 100)

    class Silent:
        def energy(self, start: Seconds, end: Seconds, wait: float = 0.0, *times: Sequence[float]) -> Any:
            raise AssertionError("not asked")

        def fetch(self, windows: Sequence[EnergyWindow], wait: float = 0.0) -> None:
            raise AssertionError("not asked")

        def close(self) -> None: ...

    with Run(model="m", runs_dir=tmp_path, run_id="r", worker="w", gateway_url="none", exporter_url="none") as run:
        task = run.task("t")
        requests = ExporterEnergyRequests(Silent(), Journal(tmp_path / "other.jsonl", "r", "x"), NullPushes())
        for number in range(150):
            requests.call_ended(task._recorder, number, Seconds(1.0), Seconds(2.0))
        assert (requests.dropped, requests.unanswered) == (50, 50)
