"""What tasks are charged adds up: overlapping tasks share energy and time evenly, and the run's counters are sums over tasks.

The exporter gives 10 W to every window, so a charge in joules is ten times the charge in seconds.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from joulebench import Run, metrics
from joulebench.metrics import Metric
from joulebench.push import energy
from tests.unit.push.conftest import FakeExporter, RealGateway, events, scrape, serving

WATTS = 10.0


class OneGpu(FakeExporter):
    """Without the GPU whose energy is not known; counts the windows that it is asked for."""

    windows = 0

    def answer(self, path: str) -> tuple[int, str]:
        self.windows += 1
        status, body = super().answer(path)
        answer = json.loads(body)
        return status, json.dumps({**answer, "gpus": answer["gpus"][:1]} if status == 200 else answer)


@pytest.fixture
def exporter() -> Iterator[OneGpu]:
    fake = OneGpu()
    with serving(fake):
        yield fake


def run_at(tmp_path: Path, gateway: RealGateway, exporter_url: str) -> Run:
    return Run(model="m", runs_dir=tmp_path, gateway_url=gateway.url, exporter_url=exporter_url, drain_seconds=8)


def pushed(gateway: RealGateway, metric: Metric, *labels: str) -> dict[tuple[str, ...], float]:
    return {tuple(of[label] for label in labels): value for name, of, value in scrape(gateway.url) if name == metric.name}


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def test_a_task_that_ran_alone_is_charged_its_window_with_one_question(
    tmp_path: Path, gateway: RealGateway, exporter: OneGpu
) -> None:
    with run_at(tmp_path, gateway, exporter.url) as run, run.task("t"):
        wait(0.05)
    (energy,) = pushed(gateway, metrics.TASK_ENERGY).values()
    assert pushed(gateway, metrics.TASK_CHARGED_ENERGY, "task_id", "uuid") == {("t", "GPU-a"): energy}
    assert exporter.windows == 1


def test_charges_of_overlapping_tasks_add_up_to_the_energy_of_their_time(
    tmp_path: Path, gateway: RealGateway, exporter: OneGpu
) -> None:
    """a alone, a and b, a alone, a and c, c alone."""
    with run_at(tmp_path, gateway, exporter.url) as run:
        with run.task("a", model="big") as task_a:
            wait(0.04)
            with run.task("b"):
                wait(0.06)
            wait(0.05)
            task_c = run.task("c")
            task_c.__enter__()
            wait(0.07)
            task_a.succeed()
        wait(0.03)
        task_c.__exit__(None, None, None)
    starts = {event["task_id"]: event["timestamp"] for event in events(run.directory, "TASK_START")}
    ends = {event["task_id"]: event["timestamp"] for event in events(run.directory, "TASK_END")}
    both = ends["b"] - starts["b"] + ends["a"] - starts["c"]
    expected = {
        "a": ends["a"] - starts["a"] - both / 2,
        "b": (ends["b"] - starts["b"]) / 2,
        "c": ends["c"] - ends["a"] + (ends["a"] - starts["c"]) / 2,
    }
    seconds = pushed(gateway, metrics.TASK_CHARGED_SECONDS, "task_id")
    joules = pushed(gateway, metrics.TASK_CHARGED_ENERGY, "task_id")
    for task, length in expected.items():
        assert seconds[(task,)] == pytest.approx(length)
        assert joules[(task,)] == pytest.approx(WATTS * length)
    assert sum(joules.values()) == pytest.approx(WATTS * (ends["c"] - starts["a"]))
    whole = pushed(gateway, metrics.TASK_ENERGY, "task_id")
    assert sum(whole.values()) > 1.3 * sum(joules.values()), "the windows themselves count shared time twice"
    by_model = pushed(gateway, metrics.RUN_CHARGED_ENERGY, "model", "uuid")
    assert by_model[("big", "GPU-a")] == pytest.approx(joules[("a",)])
    assert by_model[("m", "GPU-a")] == pytest.approx(joules[("b",)] + joules[("c",)])
    throttled = pushed(gateway, metrics.RUN_THROTTLED, "model", "reason")
    assert throttled[("big", "hw_thermal")] + throttled[("m", "hw_thermal")] == pytest.approx((ends["c"] - starts["a"]) / 4)
    assert pushed(gateway, metrics.RUN_CHARGED_SECONDS, "model")[("big",)] == pytest.approx(expected["a"])
    assert pushed(gateway, metrics.RUN_TASKS_WITHOUT_ENERGY, "model") == {("big",): 0, ("m",): 0}


def test_charges_of_many_threads_add_up(tmp_path: Path, gateway: RealGateway, exporter: OneGpu) -> None:
    def work(run: Run, number: int) -> None:
        for turn in range(5):
            with run.task(f"t{number}-{turn}"):
                wait(0.02 * (1 + number % 3))

    with run_at(tmp_path, gateway, exporter.url) as run, run.task("around"):
        threads = [threading.Thread(target=work, args=(run, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    (start,) = [event["timestamp"] for event in events(run.directory, "TASK_START") if event["task_id"] == "around"]
    (end,) = [event["timestamp"] for event in events(run.directory, "TASK_END") if event["task_id"] == "around"]
    joules = pushed(gateway, metrics.TASK_CHARGED_ENERGY, "task_id")
    assert len(joules) == 21
    # A thread may take the time of its task before another and tell it after; the clock then stands still for a moment.
    assert sum(joules.values()) == pytest.approx(WATTS * (end - start), rel=0.03)
    assert sum(pushed(gateway, metrics.RUN_CHARGED_ENERGY, "model").values()) == pytest.approx(sum(joules.values()))


def test_unknown_energy_is_not_charged_and_its_task_is_counted(tmp_path: Path, gateway: RealGateway) -> None:
    fake = FakeExporter()
    with serving(fake), run_at(tmp_path, gateway, fake.url) as run, run.task("a"):
        pass
    assert pushed(gateway, metrics.TASK_CHARGED_ENERGY, "uuid").keys() == {("GPU-a",)}, "GPU-b has no sample"
    assert pushed(gateway, metrics.RUN_TASKS_WITHOUT_ENERGY, "model") == {("m",): 1}


@pytest.mark.parametrize("url", ["none", "http://127.0.0.1:9"], ids=["no exporter", "exporter down"])
def test_without_an_exporter_time_is_charged_and_energy_is_absent(tmp_path: Path, gateway: RealGateway, url: str) -> None:
    with run_at(tmp_path, gateway, url) as run, run.task("a"), run.task("b"):
        wait(0.02)
    assert pushed(gateway, metrics.TASK_CHARGED_ENERGY) == {}
    assert pushed(gateway, metrics.RUN_CHARGED_ENERGY) == {}
    assert pushed(gateway, metrics.RUN_TASKS_WITHOUT_ENERGY, "model") == {("m",): 2}
    assert len(pushed(gateway, metrics.TASK_CHARGED_SECONDS, "task_id")) == 2


def test_tokens_and_statuses_of_a_run_are_those_of_its_ended_tasks(tmp_path: Path, gateway: RealGateway) -> None:
    with run_at(tmp_path, gateway, "none") as run:
        with run.task("a") as task:
            with task.call() as call:
                call.finish(prompt_tokens=100, cached_tokens=70, completion_tokens=8)
            with task.call() as call:
                call.finish(prompt_tokens=10, cached_tokens=99, completion_tokens=2)
            task.succeed()
        with run.task("b") as task, task.call() as call:
            call.finish(prompt_tokens=5)
    tokens = pushed(gateway, metrics.RUN_TOKENS, "model", "token")
    # The server's 99 cached of 10 prompt tokens cannot be; 10 is all that there were.
    assert tokens == {("m", "prompt"): 35, ("m", "cached_prompt"): 80, ("m", "completion"): 10}
    of_tasks = pushed(gateway, metrics.TASK_TOKENS, "task_id", "token")
    assert of_tasks[("b", "prompt")] == 5
    assert ("b", "cached_prompt") not in of_tasks, "a server that reports none is not a server that cached none"
    statuses = pushed(gateway, metrics.RUN_TASKS, "model", "status")
    assert statuses == {
        **dict.fromkeys((("m", status) for status in metrics.TASK_STATUSES), 0.0),
        ("m", "success"): 1,
        ("m", "unknown"): 1,
    }


def test_the_lowest_idle_power_of_a_run_is_pushed(
    tmp_path: Path, gateway: RealGateway, exporter: OneGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "SETTLE_SECONDS", 0.0)
    with run_at(tmp_path, gateway, exporter.url) as run:
        (before,) = run.measure_idle(0.05)
        (after,) = run.measure_idle(0.05, "after")
        assert before.watts is not None
        assert after.watts is not None
    assert pushed(gateway, metrics.RUN_IDLE_POWER, "gpu", "uuid") == {("0", "GPU-a"): min(before.watts, after.watts)}
