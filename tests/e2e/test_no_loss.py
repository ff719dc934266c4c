"""Nothing that a benchmark pushes is lost, with the real Pushgateway and the real Prometheus at a 1 s scrape.

Threat: most tasks are shorter than a scrape, so whatever is overwritten, deleted too early or pushed too late is never seen.
Every number must be read back exactly (counts and float sums alike: a float survives exposition and JSON unchanged).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from joulebench import metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clients.pushgateway import Pushgateway
from joulebench.stack.native import NativeStack

pytestmark = pytest.mark.e2e

RUN_ID = "no-loss"
WORKERS = 8
TASKS = 300


def test_every_number_of_300_short_tasks_is_read_back_exactly(stack: NativeStack, tmp_path: Path) -> None:
    workers = {f"w{number}": TASKS // WORKERS + (number < TASKS % WORKERS) for number in range(WORKERS)}
    processes = {
        worker: subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.e2e.loss_worker"),
                *(worker, str(tasks), RUN_ID, str(tmp_path / "runs"), stack.gateway_url, stack.prometheus_url),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for worker, tasks in workers.items()
    }
    done: dict[tuple[str, str], dict[str, Any]] = {}
    for worker, process in processes.items():
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, worker
        done |= {(worker, task["task_id"]): task for task in json.loads(output)}
    assert len(done) == TASKS

    journal = read_journals(tmp_path / "runs" / RUN_ID)
    starts = {key: event["timestamp"] for key, event in journal["TASK_START"].items()}
    ends = {key: event["timestamp"] for key, event in journal["TASK_END"].items()}
    api = PrometheusApi(stack.prometheus_url)

    def read_back(series_name: str, matchers: str = "") -> dict[tuple[str, str], float]:
        found = api.query(f'last_over_time({series_name}{{run_id="{RUN_ID}"{matchers}}}[10m])')
        return {(series.labels["worker"], series.labels.get("task_id", "")): series.points[-1][1] for series in found}

    assert read_back(metrics.TASK_START.name) == starts
    assert read_back(metrics.TASK_END.name) == ends
    assert read_back(metrics.TASK_LLM_CALLS.name) == {key: task["calls"] for key, task in done.items()}
    assert read_back(metrics.TASK_TOKENS.name, ',token="prompt"') == {key: task["prompt_tokens"] for key, task in done.items()}
    assert read_back(metrics.TASK_TOKENS.name, ',token="completion"') == {
        key: task["completion_tokens"] for key, task in done.items()
    }
    assert read_back(metrics.TASK_TOOL_CALLS.name, ',outcome="ok"') == {key: task["tools"] for key, task in done.items()}
    assert read_back(f"{metrics.TASK_CONFIDENCE.name}_sum") == {key: task["confidence"] for key, task in done.items()}
    assert read_back(f"{metrics.TASK_CONFIDENCE.name}_count") == {key: task["tools"] for key, task in done.items()}
    assert read_back(metrics.RUN_TASKS.name, ',status="success"') == {(worker, ""): tasks for worker, tasks in workers.items()}

    for worker, tasks in workers.items():
        state = journal["PUSH_STATE"][worker, ""]
        assert state["groups_left"] == state["groups_unpushed"] == state["events_lost"] == 0, state
        assert state["groups_acknowledged"] == tasks + 1, state
    assert [group for group in Pushgateway(stack.gateway_url).groups() if group.get("run_id") == RUN_ID] == []


def read_journals(directory: Path) -> dict[str, dict[tuple[str, str], dict[str, Any]]]:
    events: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for path in directory.glob("journal-*.jsonl"):
        for line in path.read_text().splitlines():
            event = json.loads(line)
            events.setdefault(event["event_type"], {})[event["worker"], event.get("task_id", "")] = event
    return events
