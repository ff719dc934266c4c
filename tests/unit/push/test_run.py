"""What a benchmark does with Run, Task, Call and Tool stands in the journal and in the pushed totals, and nothing else does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from joulebench import Run, metrics
from joulebench.confidence.measures import CallConfidence
from joulebench.errors import UserError
from joulebench.push.task import Task
from joulebench.units import Seconds
from tests.unit.push.conftest import LocalServer, RealGateway, events, eventually, scrape

NOWHERE = "http://127.0.0.1:9"


class SteppingClock:
    """Wall and monotonic time move together by hand; a wall clock that steps is moved alone."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.25
        self.wall_offset = 0.0

    def unix(self) -> Seconds:
        return Seconds(self.now + self.wall_offset)

    def monotonic(self) -> Seconds:
        return Seconds(self.now - 1_600_000_000)


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JOULEBENCH_GATEWAY_URL", NOWHERE)
    return tmp_path


def test_three_lines_are_enough_and_need_no_gateway(in_tmp: Path) -> None:
    with Run(model="qwen3:8b") as run, run.task("sort a list") as task:
        assert isinstance(task, Task)
    kinds = [event["event_type"] for event in events(in_tmp / "runs" / run.run_id)]
    assert kinds == ["RUN_START", "TASK_START", "TASK_END", "RUN_END", "PUSH_STATE"]
    (state,) = events(run.directory, "PUSH_STATE")
    assert (state["pushes"], state["groups_left"], state["groups_unpushed"]) == (0, None, 2)
    assert "Connection refused" in state["reasons"][0]


def test_programs_that_nobody_named_are_looked_for_at_their_usual_ports(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROMETHEUS", "EXPORTER"):
        monkeypatch.setenv(f"JOULEBENCH_{name}_URL", "")
    with Run(drain_seconds=0) as run, run.task("t"):
        pass
    (state,) = events(run.directory, "PUSH_STATE")
    assert state["windows_without_energy"] is not None, "the exporter was asked"
    assert not any("no prometheus_url" in reason for reason in state["reasons"])


def test_none_says_that_a_program_is_not_there(in_tmp: Path) -> None:
    with Run(prometheus_url="none", exporter_url="none") as run, run.task("t"):
        pass
    (state,) = events(run.directory, "PUSH_STATE")
    assert state["windows_without_energy"] is None


def test_times_come_from_the_right_clock(in_tmp: Path) -> None:
    clock = SteppingClock()
    with Run(model="m", clock=clock, suite="s", planned_tasks=1) as run, run.task("a", model="other") as task:
        clock.now += 1
        with task.call() as call:
            clock.now += 0.5
            call.first_token()
            clock.wall_offset = -3600.0
            clock.now += 2
            call.finish(prompt_tokens=10, completion_tokens=5)
    (end,) = events(run.directory, "LLM_QUERY_END")
    assert (end["duration_seconds"], end["ttft_seconds"], end["decode_seconds"], end["decode_tokens"]) == (2.5, 0.5, 2.0, 4)
    (task_end,) = events(run.directory, "TASK_END")
    assert task_end["duration_seconds"] == 3.5
    assert task_end["timestamp"] == 1_700_000_000.25 + 3.5 - 3600
    (start,) = events(run.directory, "TASK_START")
    assert (start["model_name"], start["suite"], start["task_name"]) == ("other", "s", "a")


def _raise(error: BaseException) -> Callable[[Task], None]:
    def body(task: Task) -> None:
        raise error

    return body


def _fail_then_raise(task: Task) -> None:
    task.fail("wrong answer")
    raise ValueError("after")


def _succeed_then_raise(task: Task) -> None:
    task.succeed()
    raise ValueError("after")


@pytest.mark.parametrize(
    ("body", "status", "success", "reason"),
    [
        (lambda task: task.succeed(), "success", True, ""),
        (lambda task: task.fail("wrong"), "failure", False, "wrong"),
        (lambda task: task.time_out("30 steps"), "timeout", False, "30 steps"),
        (lambda _: None, "unknown", None, ""),
        (_raise(ValueError("bad")), "error", None, "ValueError: bad"),
        (_raise(TimeoutError("slow")), "timeout", False, "TimeoutError: slow"),
        (_raise(KeyboardInterrupt()), "error", None, "KeyboardInterrupt"),
        (_fail_then_raise, "failure", False, "wrong answer; then ValueError: after"),
        (_succeed_then_raise, "error", None, "ValueError: after"),
    ],
)
def test_a_verdict_is_given_never_assumed(
    in_tmp: Path, body: Callable[[Task], None], status: str, success: bool | None, reason: str
) -> None:
    raised: BaseException | None = None
    with Run() as run:
        try:
            with run.task("t") as task:
                body(task)
        except BaseException as error:
            raised = error
    (end,) = events(run.directory, "TASK_END")
    assert (end["status"], end["success"], end["reason"]) == (status, success, reason)
    assert (raised is not None) == (body.__name__ in ("body", "_fail_then_raise", "_succeed_then_raise"))


def test_calls_and_tools_end_once_and_pass_errors_on(in_tmp: Path) -> None:
    with Run() as run, run.task("t") as task:
        with pytest.raises(ConnectionError), task.call():
            raise ConnectionError("gone")
        with task.call() as call:
            call.fail("HTTP 500")
            call.finish(prompt_tokens=1)
        with task.call():
            pass
        with pytest.raises(RuntimeError), task.tool("rm", {}):
            raise RuntimeError("no")
        with task.tool("ls", {"d": 1}, CallConfidence("ok", "ls", 0.5, {"args_min": 0.5})) as tool:
            tool.result("x" * 70_000)
        with task.tool("lz", None) as tool:
            tool.outcome("undeclared", "no such tool")
        with task.tool("lz", None) as tool, pytest.raises(UserError, match="malformed"):
            tool.outcome("broken")
    ends = events(run.directory, "LLM_QUERY_END")
    assert [(end["call"], end["status"], end["error"], end["prompt_tokens"]) for end in ends] == [
        (1, "error", "ConnectionError: gone", None),
        (2, "error", "HTTP 500", None),
        (3, "success", None, None),
    ]
    tools = events(run.directory, "TOOL_CALL_END")
    assert [(end["tool_call"], end["outcome"], end["success"], end["error"]) for end in tools] == [
        (1, "tool_error", False, "RuntimeError: no"),
        (2, "ok", True, None),
        (3, "undeclared", False, "no such tool"),
        (4, "ok", True, None),
    ]
    assert (len(tools[1]["result"]), tools[1]["result_characters"]) == (65_536, 70_000)
    starts = events(run.directory, "TOOL_CALL_START")
    assert [(start["call"], start["confidence"], start["span_status"]) for start in starts[:2]] == [
        (3, None, None),
        (3, 0.5, "ok"),
    ]


def test_ids_are_unique_in_a_run_also_after_a_crash(in_tmp: Path) -> None:
    with Run(run_id="again", worker="w") as run:
        given = []
        for name in ("t", "t", "../../etc/passwd", "", "=1+1"):
            with run.task(name) as task:
                given.append(task.task_id)
    assert given == ["t", "t#2", "../../etc/passwd", "task", "=1+1"]
    with Run(run_id="again", worker="w") as run, run.task("t") as task:
        assert task.task_id == "t#3"
    assert [path.name for path in (in_tmp / "runs").rglob("*.jsonl")] == ["journal-w.jsonl"]


def test_what_cannot_work_is_said_at_once(in_tmp: Path) -> None:
    with pytest.raises(UserError, match="run_id"):
        Run(run_id="../x")
    with pytest.raises(UserError, match="gateway_url"):
        Run(gateway_url="localhost:9091")
    with pytest.raises(UserError, match="with Run"):
        Run().task("t")
    with Run() as run:
        with run.task("t") as task:
            pass
        with pytest.raises(UserError, match="ended"):
            task.succeed()
    with pytest.raises(UserError, match="not open"):
        run.task("t")


def test_totals_are_exact_with_tasks_in_eight_threads(in_tmp: Path, gateway: RealGateway) -> None:
    def work(run: Run) -> None:
        for _ in range(10):
            with run.task("t") as task:
                for _ in range(5):
                    with task.call() as call:
                        call.first_token()
                        call.finish(prompt_tokens=3, completion_tokens=2)
                    with task.tool("f", {}, CallConfidence("ok", "f", 0.5, {})):
                        pass
                task.succeed()

    with Run(model="m", worker="w", gateway_url=gateway.url) as run:
        threads = [threading.Thread(target=work, args=(run,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    samples = gateway.samples()

    def total(name: str) -> float:
        return sum(value for (series, _), value in samples.items() if series == name)

    assert total(metrics.TASK_LLM_CALLS.name) == 400
    tokens = {
        kind: sum(
            value for name, labels, value in scrape(gateway.url) if name == metrics.TASK_TOKENS.name and labels["token"] == kind
        )
        for kind in ("prompt", "completion")
    }
    assert tokens == {"prompt": 1200, "completion": 800}
    assert total(f"{metrics.TASK_CONFIDENCE.name}_sum") == 200.0
    assert total(f"{metrics.CALL_DURATION.name}_count") == 400
    assert len({task for series, task in samples if series == metrics.TASK_END.name}) == 80
    assert len(events(run.directory, "LLM_QUERY_END")) == 400
    (state,) = events(run.directory, "PUSH_STATE")
    assert (state["groups_left"], state["groups_unpushed"], state["failures"]) == (81, 0, 0)
    assert "no prometheus_url" in state["reasons"][0]


def test_addresses_come_from_the_environment(in_tmp: Path, gateway: RealGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEBENCH_GATEWAY_URL", gateway.url + "/")
    monkeypatch.setenv("JOULEBENCH_RUNS_DIR", str(in_tmp / "elsewhere"))
    with Run() as run, run.task("t"):
        pass
    assert run.directory.parent == in_tmp / "elsewhere"
    assert (metrics.TASK_END.name, "t") in gateway.samples()


def test_a_gateway_that_says_no_is_told_with_its_words(in_tmp: Path, server: LocalServer) -> None:
    server.status, server.body = 400, "pushed metrics are invalid or inconsistent"
    with Run(gateway_url=server.url, drain_seconds=0.3) as run, run.task("t"):
        pass
    (state,) = events(run.directory, "PUSH_STATE")
    assert all("400 pushed metrics are invalid or inconsistent" in reason for reason in state["reasons"])
    assert len(state["reasons"]) == 2, "one for each group"
    assert state["failures"] >= 2


def test_the_phase_is_what_the_worker_does_now(in_tmp: Path, gateway: RealGateway) -> None:
    def phase() -> set[str]:
        return {labels["phase"] for name, labels, value in scrape(gateway.url) if name == metrics.RUN_PHASE.name and value == 1}

    with Run(gateway_url=gateway.url) as run, run.task("t") as task:
        eventually(lambda: phase() == {"idle"})
        with task.call() as call:
            eventually(lambda: phase() == {"prefill"})
            call.first_token()
            eventually(lambda: phase() == {"decode"})
        with task.tool("f", {}):
            eventually(lambda: phase() == {"tool"})
        eventually(lambda: phase() == {"idle"})
    names = {name for name, _ in gateway.samples()}
    assert metrics.RUN_TASKS.name in names
    assert not names & {metrics.RUN_PHASE.name, metrics.RUN_INFO.name}, "a run that is over is not live"
