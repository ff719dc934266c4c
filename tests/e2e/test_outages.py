"""A Pushgateway and a Prometheus that are killed in the middle of a run cost it nothing: every number is read back exactly."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from joulebench import Run, metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clients.pushgateway import Pushgateway
from joulebench.stack.native import NativeStack
from tests.unit.push.conftest import events

pytestmark = pytest.mark.e2e


def test_both_are_killed_and_nothing_is_lost(stack: NativeStack, tmp_path: Path) -> None:
    pause = threading.Event()

    def tasks(run: Run, number: int) -> None:
        for _ in range(25):
            with run.task(f"t{number}") as task:
                with task.call() as call:
                    pause.wait(0.15)
                    call.finish(prompt_tokens=11, completion_tokens=number + 1)
                task.succeed()

    with Run(
        model="m",
        run_id="outages",
        worker="w",
        runs_dir=tmp_path / "runs",
        gateway_url=stack.gateway_url,
        prometheus_url=stack.prometheus_url,
        drain_seconds=25.0,
    ) as run:
        threads = [threading.Thread(target=tasks, args=(run, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for name in ("pushgateway", "prometheus"):
            program = stack.named(name)
            pause.wait(0.7)
            program.kill()
            pause.wait(0.7)
            program.start()
        for thread in threads:
            thread.join()

    (state,) = events(run.directory, "PUSH_STATE")
    assert (state["groups_left"], state["groups_unpushed"], state["groups_acknowledged"]) == (0, 0, 101), state
    assert state["failures"] > 0, "the outage was not noticed, so this test shows nothing"
    api = PrometheusApi(stack.prometheus_url)

    def read_back(series: str, matchers: str = "") -> dict[str, float]:
        found = api.query(f'last_over_time({series}{{run_id="outages"{matchers}}}[5m])')
        return {each.labels["task_id"]: each.points[-1][1] for each in found if each.labels.get("task_id")}

    assert read_back(metrics.TASK_END.name) == {end["task_id"]: end["timestamp"] for end in events(run.directory, "TASK_END")}
    completion = {end["task_id"]: end["completion_tokens"] for end in events(run.directory, "LLM_QUERY_END")}
    assert read_back(metrics.TASK_TOKENS.name, ',token="completion"') == completion
    assert len(completion) == 100
    assert [key for key in Pushgateway(stack.gateway_url).groups() if key.get("run_id") == "outages"] == []
