"""A disk that is full stops neither the benchmark nor the pushes, and what it did not take is written once it can be.

The disk is full for one process: by its limit of file size, which cuts a write in the middle as a full disk does. Under the proxy
it is a tmpfs of 64 KiB, which root alone can mount.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from joulebench import metrics
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import say
from tests.unit.proxy.conftest import served
from tests.unit.proxy.seen import wait_for
from tests.unit.push.conftest import scrape

PLANNED, FULL_AT = 60, 20_000

PROGRAM = """
import resource, signal, sys
from joulebench import Run

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, ({full_at}, hard))
with Run(model="m", run_id="r", worker="w", runs_dir=sys.argv[1], gateway_url=sys.argv[2], prometheus_url="none",
         exporter_url="none", planned_tasks={planned}) as run:
    for number in range({planned}):
        with run.task(f"task {{number}}") as task:
            with task.call() as call:
                call.finish(prompt_tokens=10, completion_tokens=1)
            task.succeed()
        if number == {freed_at}:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
"""


def run_program(directory: Path, gateway_url: str, freed_at: int) -> str:
    path = directory / "program.py"
    path.write_text(PROGRAM.format(full_at=FULL_AT, planned=PLANNED, freed_at=freed_at))
    command = [sys.executable, str(path), str(directory), gateway_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def readable_events(directory: Path) -> list[dict[str, Any]]:
    lines = (directory / "r/journal-w.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def test_a_disk_that_is_freed_gets_every_event(tmp_path: Path, gateway: Any) -> None:
    logged = run_program(tmp_path, gateway.url, freed_at=50)
    events = readable_events(tmp_path)
    kinds = Counter(event["event_type"] for event in events)
    assert (kinds["TASK_START"], kinds["TASK_END"], kinds["LLM_QUERY_END"]) == (PLANNED, PLANNED, PLANNED)
    times = [event["timestamp"] for event in events]
    assert times == sorted(times), "in their order"
    (state,) = [event for event in events if event["event_type"] == "PUSH_STATE"]
    assert (state["events_lost"], state["reasons"][0][:8]) == (0, "no prome")
    assert logged.count("could not be written") == 1


def test_a_disk_that_stays_full_does_not_stop_the_pushes(tmp_path: Path, gateway: Any) -> None:
    logged = run_program(tmp_path, gateway.url, freed_at=-1)
    kinds = Counter(event["event_type"] for event in readable_events(tmp_path))
    assert 10 < kinds["TASK_END"] < PLANNED
    samples = scrape(gateway.url)
    assert len({labels["task_id"] for name, labels, _ in samples if name == metrics.TASK_END.name}) == PLANNED
    assert [value for name, _, value in samples if name == metrics.RUN_TASKS_PLANNED.name] == [PLANNED]
    finished = {labels["status"]: value for name, labels, value in samples if name == metrics.RUN_TASKS.name}
    assert finished["success"] == PLANNED
    assert "could not be written" in logged


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "tmpfs"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a tmpfs cannot be mounted here: that takes root")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_under_the_proxy_stops_no_request_and_gets_every_event_once_it_is_freed(tmpfs: Path) -> None:
    asked = 200
    with ModelServer([say(f"reply {n}") for n in range(asked)]) as server:
        with served(server.ollama_url, runs_dir=tmpfs) as proxy:
            for number in range(asked):
                body = {"model": "m", "messages": []}
                reply = requests.post(f"{proxy.url}/run/r/task/t/v1/chat/completions", json=body, timeout=5)
                assert reply.json()["choices"][0]["message"]["content"] == f"reply {number}"
            proxy.wait_until_over(asked)
            wait_for(lambda: bool(proxy.value(metrics.PROXY_UNWRITTEN_EVENTS)))
            subprocess.run(["mount", "-o", "remount,size=4m", str(tmpfs)], check=True)
            wait_for(lambda: proxy.value(metrics.PROXY_UNWRITTEN_EVENTS) == 0, 15.0)
        (journal,) = tmpfs.rglob("journal-proxy-*")
        lines = [line for line in journal.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
    kinds = Counter(json.loads(line)["event_type"] for line in lines)
    assert (kinds["LLM_QUERY_START"], kinds["LLM_QUERY_END"], kinds["TASK_START"]) == (asked, asked, 1)
