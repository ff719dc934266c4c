"""Window energies are asked for in the background, and an exporter that fails costs the run nothing but the energies."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from joulebench import Run, metrics
from joulebench.clients.exporter import ExporterApi
from joulebench.clock import SystemClock
from joulebench.errors import EnergyApiError
from joulebench.push.energy import RETRY_AFTER
from joulebench.units import Seconds
from tests.unit.push.conftest import FakeExporter, FakePrometheus, LocalServer, RealGateway, events, eventually, scrape, serving


@pytest.fixture
def exporter() -> Iterator[FakeExporter]:
    fake = FakeExporter()
    with serving(fake):
        yield fake


def run_one(tmp_path: Path, gateway: str, exporter: str, prometheus: str | None = None) -> Run:
    with (
        Run(runs_dir=tmp_path, gateway_url=gateway, exporter_url=exporter, prometheus_url=prometheus, drain_seconds=8) as run,
        run.task("t") as task,
        task.call() as call,
    ):
        call.finish()
    return run


def test_energies_reach_the_journal_and_the_gateway(tmp_path: Path, gateway: RealGateway, exporter: FakeExporter) -> None:
    run = run_one(tmp_path, gateway.url, exporter.url)
    (task,) = events(run.directory, "TASK_ENERGY")
    (call,) = events(run.directory, "CALL_ENERGY")
    (end,) = events(run.directory, "TASK_END")
    assert (call["call"], task["source"], task["total"]["joules"], task["end"]) == (1, "simulated", None, end["timestamp"])
    joules = task["gpus"][0]["joules"]
    assert joules == pytest.approx(10 * (task["end"] - task["start"]))
    pushed = [(labels["uuid"], value) for name, labels, value in scrape(gateway.url) if name == metrics.TASK_ENERGY.name]
    assert pushed == [("GPU-a", joules)], "a GPU whose energy is not known has no sample"
    (state,) = events(run.directory, "PUSH_STATE")
    assert state["windows_without_energy"] == 0


def run_phases(tmp_path: Path, exporter: FakeExporter) -> tuple[dict[str, Any], list[float]]:
    """A task with a call and a tool, a few milliseconds each: the exporter's answer for it, and when its phase changed."""
    pause = threading.Event().wait
    with Run(runs_dir=tmp_path, gateway_url="none", exporter_url=exporter.url) as run, run.task("t") as task:
        with task.call() as call:
            pause(0.003)
            call.first_token()
            pause(0.003)
            call.finish()
        with task.tool("look", {}):
            pause(0.003)
    (energy,) = events(run.directory, "TASK_ENERGY")
    kinds = ("LLM_QUERY_START", "LLM_FIRST_TOKEN_RECEIVED", "LLM_QUERY_END", "TOOL_CALL_END")
    return energy, [event["timestamp"] for kind in kinds for event in events(run.directory, kind)]


def test_a_task_is_asked_for_in_one_request_with_the_times_at_which_its_phase_changed(
    tmp_path: Path, exporter: FakeExporter
) -> None:
    energy, changes = run_phases(tmp_path, exporter)
    of_task = [query for query in exporter.queries if f"start={energy['start']!r}&end={energy['end']!r}" in query]
    assert len(of_task) == 1
    cuts = [0.0, *energy["cuts"], energy["end"] - energy["start"]]
    for change in changes:
        assert min(abs(energy["start"] + cut - change) for cut in cuts) <= 2e-4
    parts = energy["gpus"][0]["parts"]
    assert len(parts) == len(energy["cuts"]) + 1
    assert sum(joules for joules, _, _ in parts) == pytest.approx(energy["gpus"][0]["joules"])


def test_an_exporter_that_knows_no_cuts_is_asked_without(tmp_path: Path, exporter: FakeExporter) -> None:
    exporter.unknown = ("cuts", "changes")
    energy, _ = run_phases(tmp_path, exporter)
    assert energy["gpus"][0]["joules"] == pytest.approx(10 * (energy["end"] - energy["start"]))
    assert "parts" not in energy["gpus"][0]


def test_a_task_and_its_calls_are_asked_for_in_one_request(tmp_path: Path, exporter: FakeExporter) -> None:
    with Run(runs_dir=tmp_path, gateway_url="none", exporter_url=exporter.url) as run, run.task("t") as task:
        for _ in range(7):
            with task.call() as call:
                call.finish()
    assert [method for method, _, _ in exporter.requests] == ["POST"]
    assert len(exporter.queries) == 8
    assert [event["call"] for event in events(run.directory, "CALL_ENERGY")] == [*range(1, 8)]
    assert len(events(run.directory, "TASK_ENERGY")) == 1


def test_an_exporter_that_takes_one_window_a_request_is_asked_for_each(tmp_path: Path, exporter: FakeExporter) -> None:
    exporter.takes_many = False
    with Run(runs_dir=tmp_path, gateway_url="none", exporter_url=exporter.url) as run, run.task("t") as task:
        for _ in range(3):
            with task.call() as call:
                call.finish()
    assert [method for method, _, _ in exporter.requests] == ["POST", *["GET"] * 4]
    assert len(events(run.directory, "CALL_ENERGY")) == 3


def test_calls_of_a_task_that_goes_on_are_asked_for_after_a_while(
    tmp_path: Path, exporter: FakeExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joulebench.push.energy.COMPANY_SECONDS", 0.2)
    with Run(runs_dir=tmp_path, gateway_url="none", exporter_url=exporter.url) as run, run.task("t") as task:
        for _ in range(2):
            with task.call() as call:
                call.finish()
        eventually(lambda: len(events(run.directory, "CALL_ENERGY")) == 2)
        assert events(run.directory, "TASK_ENERGY") == []


def run_two_at_once(tmp_path: Path, exporter: FakeExporter) -> tuple[dict[str, Any], dict[str, Any]]:
    """Events of energy of a task with a call in which another task ran, and of that other task."""
    pause = threading.Event().wait
    with (
        Run(runs_dir=tmp_path, gateway_url="none", exporter_url=exporter.url) as run,
        run.task("outer") as outer,
        outer.call() as call,
    ):
        pause(0.004)
        with run.task("inner"):
            pause(0.004)
        pause(0.004)
        call.finish()
    found = {event["task_id"]: event for event in events(run.directory, "TASK_ENERGY")}
    return found["outer"], found["inner"]


def test_the_exporter_learns_when_other_tasks_began_and_ended_and_cuts_nothing_there(
    tmp_path: Path, exporter: FakeExporter
) -> None:
    outer, inner = run_two_at_once(tmp_path, exporter)
    (asked,) = [query for query in exporter.queries if f"start={outer['start']!r}&end={outer['end']!r}" in query]
    changes = [outer["start"] + float(at) for at in parse_qs(asked)["changes"][0].split(",")]
    assert changes == pytest.approx([inner["start"], inner["end"]], abs=2e-4)
    for at in changes:
        assert min(abs(outer["start"] + cut - at) for cut in outer["cuts"]) > 1e-3


def test_an_exporter_that_knows_no_changes_is_asked_for_its_cuts(tmp_path: Path, exporter: FakeExporter) -> None:
    exporter.unknown = ("changes",)
    outer, _ = run_two_at_once(tmp_path, exporter)
    assert len(outer["gpus"][0]["parts"]) == len(outer["cuts"]) + 1


def throttled(gateway: RealGateway) -> dict[tuple[str, str], float]:
    found = [(labels, value) for name, labels, value in scrape(gateway.url) if name == metrics.TASK_THROTTLED.name]
    return {(labels["uuid"], labels["reason"]): value for labels, value in found}


def test_throttled_seconds_are_pushed_where_they_are_known(tmp_path: Path, gateway: RealGateway, exporter: FakeExporter) -> None:
    run = run_one(tmp_path, gateway.url, exporter.url)
    (told,) = events(run.directory, "TASK_ENERGY")
    hot = told["gpus"][0]["throttled_seconds"]["hw_thermal"]
    assert hot == pytest.approx((told["end"] - told["start"]) / 4)
    assert throttled(gateway) == {("GPU-a", "hw_thermal"): hot, ("GPU-a", "sw_thermal"): 0.0}


def test_an_exporter_that_tells_no_throttling_still_gives_its_joules(tmp_path: Path, gateway: RealGateway) -> None:
    old = FakeExporter()
    old.tells_throttling = False
    with serving(old):
        run_one(tmp_path, gateway.url, old.url)
    assert (metrics.TASK_ENERGY.name, "t") in gateway.samples()
    assert throttled(gateway) == {}


def test_the_joules_of_calls_are_pushed_once_they_are_known_on_every_gpu(tmp_path: Path, gateway: RealGateway) -> None:
    class OneGpu(FakeExporter):
        def answer(self, path: str) -> tuple[int, str]:
            status, body = super().answer(path)
            told = json.loads(body)
            return status, json.dumps({**told, "gpus": told["gpus"][:1]})

    exporter = OneGpu()
    with (
        serving(exporter),
        Run(runs_dir=tmp_path, gateway_url=gateway.url, exporter_url=exporter.url) as run,
        run.task("t") as task,
    ):
        for _ in range(3):
            with task.call() as call:
                call.finish(prompt_tokens=9, cached_tokens=4)
    told = [event["gpus"][0]["joules"] for event in events(run.directory, "CALL_ENERGY")]
    samples = gateway.samples()
    assert samples[f"{metrics.TASK_CALL_ENERGY.name}_count", "t"] == 3
    assert samples[f"{metrics.TASK_CALL_ENERGY.name}_sum", "t"] == pytest.approx(sum(told))
    assert [event["cached_tokens"] for event in events(run.directory, "LLM_QUERY_END")] == [4, 4, 4]


def test_calls_that_are_unknown_on_one_gpu_are_not_summed(tmp_path: Path, gateway: RealGateway, exporter: FakeExporter) -> None:
    run_one(tmp_path, gateway.url, exporter.url)
    assert not [name for name, _ in gateway.samples() if name.startswith(metrics.TASK_CALL_ENERGY.name)]


def test_a_group_is_not_deleted_before_its_energy_was_seen(tmp_path: Path, gateway: RealGateway, exporter: FakeExporter) -> None:
    seen: list[float] = []

    class Watching(FakePrometheus):
        def answer(self, path: str) -> tuple[int, str]:
            seen.extend(value for name, _, value in scrape(gateway.url) if name == metrics.TASK_ENERGY.name)
            return super().answer(path)

    prometheus = Watching(gateway_url=gateway.url)
    with serving(prometheus):
        run = run_one(tmp_path, gateway.url, exporter.url, prometheus.url)
    (state,) = events(run.directory, "PUSH_STATE")
    assert (state["groups_acknowledged"], state["groups_left"]) == (2, 0)
    assert len(seen) >= 1


def test_an_exporter_that_is_not_there_is_told_once(tmp_path: Path, gateway: RealGateway) -> None:
    clock = SystemClock()
    start = clock.monotonic()
    with Run(runs_dir=tmp_path, gateway_url=gateway.url, exporter_url="http://127.0.0.1:9", drain_seconds=8) as run:
        for _ in range(5):
            with run.task("t") as task, task.call():
                pass
    assert clock.monotonic() - start < 3
    (told,) = events(run.directory, "ENERGY_UNAVAILABLE")
    assert "Connection refused" in told["reason"]
    (state,) = events(run.directory, "PUSH_STATE")
    assert state["windows_without_energy"] == 10
    assert state["groups_unpushed"] == 0
    ended = [task for name, task in gateway.samples() if name == metrics.TASK_END.name]
    assert len(ended) == 5
    assert metrics.TASK_ENERGY.name not in {name for name, _ in gateway.samples()}


def test_an_exporter_that_comes_back_is_asked_again(tmp_path: Path, gateway: RealGateway, exporter: FakeExporter) -> None:
    exporter.status = 503
    with Run(runs_dir=tmp_path, gateway_url=gateway.url, exporter_url=exporter.url) as run:
        with run.task("early"):
            pass
        eventually(lambda: len(exporter.requests) >= 1)
        exporter.status = 200
        eventually(lambda: (metrics.TASK_ENERGY.name, "early") in gateway.samples())
    assert [event["task_id"] for event in events(run.directory, "TASK_ENERGY")] == ["early"]
    assert len(events(run.directory, "ENERGY_UNAVAILABLE")) == 1


def test_an_exporter_that_refuses_a_window_is_not_asked_for_it_again(
    tmp_path: Path, gateway: RealGateway, exporter: FakeExporter
) -> None:
    exporter.status = 400
    with Run(runs_dir=tmp_path, gateway_url=gateway.url, exporter_url=exporter.url) as run:
        with run.task("refused"):
            pass
        eventually(lambda: len(exporter.requests) == 1)
        exporter.status = 200
        when = SystemClock().monotonic() + RETRY_AFTER + 0.3
        eventually(lambda: SystemClock().monotonic() > when)
        assert len(exporter.requests) == 1
        with run.task("later"):
            pass
        eventually(lambda: (metrics.TASK_ENERGY.name, "later") in gateway.samples())
    assert [event["task_id"] for event in events(run.directory, "TASK_ENERGY")] == ["later"]
    (state,) = events(run.directory, "PUSH_STATE")
    assert (state["windows_without_energy"], state["groups_unpushed"]) == (1, 0)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, '{"error": "end before start"}', "400.*end before start"),
        (200, "[]", "cannot be read"),
        (200, "not json", "cannot be read"),
        (200, '{"source": "nvml", "gpus": [{"gpu": "0"}], "total": {}}', "cannot be read"),
        (200, '{"source": "nvml", "gpus": [], "total": null}', "cannot be read"),
        (
            200,
            '{"source": "nvml", "gpus": [{"gpu": 0, "uuid": "u", "joules": true, "quality": "ok"}], "total": {}}',
            "joules is True",
        ),
        (
            200,
            '{"source": "nvml", "gpus": [{"gpu": "x", "uuid": "u", "joules": 1, "low": 1, "high": 1, "quality": "ok"}],'
            ' "total": {}}',
            "cannot be read",
        ),
        *(
            (200, f'{{"source": "nvml", "gpus": [], "total": {total}}}', "cannot be read")
            for total in ('{"joules": "1"}', '{"reasons": null}', '{"reasons": "glitch"}', '{"reasons": [[1]]}', "[1]")
        ),
        *(
            (
                200,
                '{"source": "nvml", "gpus": [{"gpu": 0, "uuid": "u", "joules": 1, "low": 1, "high": 1, "quality": "ok",'
                f' "throttled_seconds": {told}}}], "total": {{}}}}',
                "throttled_seconds|cannot be read",
            )
            for told in ('{"hw_thermal": -1}', '{"hw_thermal": "1"}', '{"hw_thermal": true}', "[1]")
        ),
    ],
)
def test_a_bad_answer_is_an_error_and_no_number(server: LocalServer, status: int, body: str, words: str) -> None:
    server.status, server.body = status, body
    with pytest.raises(EnergyApiError, match=words):
        ExporterApi(server.url).energy(Seconds(1.0), Seconds(2.0))
