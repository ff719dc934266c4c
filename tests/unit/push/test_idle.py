"""Idle power is measured on purpose, told with its bounds, and never where it cannot be known."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from joulebench import Run
from joulebench.clock import SystemClock
from joulebench.errors import UserError
from joulebench.push import energy
from joulebench.units import Seconds
from tests.unit.push.conftest import FakeExporter, events, serving

NOWHERE = "http://127.0.0.1:9"
BRIEFLY = 0.05


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "SETTLE_SECONDS", 0.0)


@pytest.fixture
def exporter() -> Iterator[FakeExporter]:
    fake = FakeExporter()
    with serving(fake):
        yield fake


def open_run(tmp_path: Path, exporter_url: str | None, clock: SystemClock | None = None) -> Run:
    return Run(runs_dir=tmp_path, gateway_url=NOWHERE, exporter_url=exporter_url, clock=clock, drain_seconds=0.0)


def test_watts_and_their_bounds_reach_the_journal(tmp_path: Path, exporter: FakeExporter) -> None:
    with open_run(tmp_path, exporter.url) as run:
        assert run.exporter_answers()
        known, unknown = run.measure_idle(BRIEFLY)
        run.measure_idle(BRIEFLY, "after")
    before, after = events(run.directory, "IDLE_POWER")
    assert (before["label"], after["label"], before["source"]) == ("before", "after", "simulated")
    length = before["end"] - before["start"]
    assert length >= BRIEFLY
    assert known.watts == pytest.approx(10.0, rel=0.01)
    assert before["gpus"][0]["watts"] == known.watts
    assert known.high == pytest.approx(10.0 + 1 / length, rel=0.01)
    assert (unknown.watts, before["gpus"][1]["watts"], unknown.quality) == (None, None, "missing")
    assert "task_id" not in before


@pytest.mark.parametrize("url", [None, NOWHERE])
def test_without_an_exporter_nothing_is_waited_for_and_why_is_said_once(
    tmp_path: Path, url: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SystemClock()
    began = clock.monotonic()
    with open_run(tmp_path, url) as run:
        assert not run.exporter_answers()
        assert run.measure_idle(60.0) == ()
        assert run.measure_idle(60.0, "after") == ()
    assert clock.monotonic() - began < 10
    assert [record.message for record in caplog.records if "idle power" in record.message] != []
    assert len([record for record in caplog.records if "idle power" in record.message]) == 1
    assert events(run.directory, "IDLE_POWER") == []
    (state,) = events(run.directory, "PUSH_STATE")
    assert [reason for reason in state["reasons"] if reason.startswith("idle power: ")] != []


def test_idle_is_not_measured_beside_work(tmp_path: Path, exporter: FakeExporter) -> None:
    with open_run(tmp_path, exporter.url) as run:
        with run.task("t") as task, task.call(), pytest.raises(UserError, match="under way"):
            run.measure_idle(BRIEFLY)
        with pytest.raises(UserError, match="above 0"):
            run.measure_idle(0.0)


def test_an_interval_in_which_the_wall_clock_stepped_is_not_told(tmp_path: Path, exporter: FakeExporter) -> None:
    class Stepping(SystemClock):
        def __init__(self) -> None:
            self.reads = 0

        def unix(self) -> Seconds:
            # The thread that pushes reads the time as well, at moments of its own.
            self.reads += threading.current_thread() is threading.main_thread()
            return Seconds(super().unix() + 5.0 * (self.reads % 2))

    with open_run(tmp_path, exporter.url, Stepping()) as run:
        assert run.measure_idle(BRIEFLY) == ()
    assert events(run.directory, "IDLE_POWER") == []


def test_a_warm_up_is_told_outside_of_any_task(tmp_path: Path) -> None:
    with open_run(tmp_path, None) as run:
        with run.warm_up("qwen3:8b"):
            pass
        with pytest.raises(RuntimeError, match="no such model"), run.warm_up():
            raise RuntimeError("no such model")
    good, bad = events(run.directory, "WARM_UP")
    assert (good["model_name"], good["error"], bad["error"]) == ("qwen3:8b", None, "RuntimeError: no such model")
    assert good["duration_seconds"] >= 0
    assert "task_id" not in good
