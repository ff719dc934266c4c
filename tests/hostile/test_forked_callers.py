"""A process that is forked or spawned inside a run is a worker of its own: no task is lost or recorded twice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from joulebench import Run
from joulebench.errors import UserError

CHILDREN, TASKS = 3, 7

PROGRAM = """
import multiprocessing, os, sys, threading
from joulebench import Run

def work(run, child):
    for number in range({tasks}):
        with run.task(f"task {{number}}") as task:
            with task.call() as call:
                call.finish(prompt_tokens=10, completion_tokens=1)
            task.succeed()

def busy(run, stop):
    while not stop.is_set():
        with run.task("beside") as task, task.call() as call:
            call.finish(1, 1)

if __name__ == "__main__":
    with Run(model="m", run_id="r", worker="w", runs_dir=sys.argv[1], gateway_url=sys.argv[2], prometheus_url="none",
             exporter_url="none", planned_tasks={planned}) as run:
        work(run, "parent")
        {body}
"""

MULTIPROCESSING = """
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=work, args=(run, n)) for n in range({children})]
        [child.start() for child in children]
        [child.join(60) for child in children]
        assert [child.exitcode for child in children] == [0] * {children}, [child.exitcode for child in children]
"""
BARE_FORK = """
        pids = []
        for n in range({children}):
            pid = os.fork()
            if pid == 0:
                work(run, n)
                break
            pids.append(pid)
        else:
            assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * {children}
"""
BARE_EXIT = """
        for n in range({children}):
            pid = os.fork()
            if pid == 0:
                work(run, n)
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
"""
WITH_THREADS = """
        stop = threading.Event()
        threads = [threading.Thread(target=busy, args=(run, stop)) for _ in range(4)]
        [thread.start() for thread in threads]
        context = multiprocessing.get_context("fork")
        for turn in range(5):
            children = [context.Process(target=work, args=(run, n)) for n in range({children})]
            [child.start() for child in children]
            [child.join(60) for child in children]
            assert [child.exitcode for child in children] == [0] * {children}, [child.exitcode for child in children]
        stop.set()
        [thread.join() for thread in threads]
"""
INSIDE_A_TASK = """
        with run.task("outer") as outer:
            pid = os.fork()
            if pid == 0:
                with outer.call() as call:
                    call.first_token()
                    call.finish(5, 5)
                with outer.tool("f", {{}}) as tool:
                    tool.result("x")
                outer.key_step(1)
                outer.succeed()
                assert outer.joules is None
            else:
                assert os.waitpid(pid, 0)[1] == 0
                with outer.call() as call:
                    call.finish(5, 5)
"""


def run_program(directory: Path, body: str, gateway_url: str = "none") -> subprocess.CompletedProcess[str]:
    names = {"tasks": TASKS, "children": CHILDREN, "planned": TASKS * (CHILDREN + 1)}
    path = directory / "program.py"
    path.write_text(PROGRAM.format(body=body.strip().format(**names), **names))
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(path), str(directory), gateway_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done


def journals(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """Events by worker."""
    paths = sorted((directory / "r").glob("journal-*.jsonl"))
    return {path.stem.removeprefix("journal-"): [json.loads(line) for line in path.read_text().splitlines()] for path in paths}


def kinds(events: list[dict[str, Any]]) -> Counter[str]:
    return Counter(event["event_type"] for event in events)


@pytest.mark.parametrize("body", [MULTIPROCESSING, BARE_FORK, BARE_EXIT], ids=["multiprocessing", "os.fork", "os.fork and exit"])
def test_each_forked_process_is_a_worker_with_all_its_tasks(tmp_path: Path, body: str) -> None:
    run_program(tmp_path, body)
    found = journals(tmp_path)
    assert len(found) == CHILDREN + 1
    for worker, events in found.items():
        counted = kinds(events)
        assert (counted["TASK_START"], counted["TASK_END"], counted["LLM_QUERY_END"]) == (TASKS, TASKS, TASKS), worker
        assert (counted["RUN_START"], counted["RUN_END"], counted["PUSH_STATE"]) == (1, 1, 1), worker
        assert {event["worker"] for event in events} == {worker}
    starts = {worker: events[0] for worker, events in found.items()}
    assert {start.get("forked_from") for worker, start in starts.items() if worker != "w"} == {"w"}
    assert sum(start.get("planned_tasks") or 0 for start in starts.values()) == TASKS * (CHILDREN + 1), "one plan for all"


def test_forked_workers_have_groups_of_their_own_on_the_gateway(tmp_path: Path, gateway: Any) -> None:
    run_program(tmp_path, MULTIPROCESSING, gateway.url)
    groups = gateway.groups()
    tasks = Counter(key["worker"] for key in groups if "task_id" in key)
    assert sorted(tasks.values()) == [TASKS] * (CHILDREN + 1)


def test_a_fork_while_other_threads_record_hangs_nobody(tmp_path: Path) -> None:
    run_program(tmp_path, WITH_THREADS)
    found = journals(tmp_path)
    children = {worker: events for worker, events in found.items() if worker != "w"}
    assert len(children) == 5 * CHILDREN
    assert all(kinds(events)["TASK_END"] == TASKS for events in children.values())
    parent = kinds(found["w"])
    assert parent["TASK_START"] == parent["TASK_END"]


def test_a_task_that_was_open_at_the_fork_is_recorded_by_its_parent_only(tmp_path: Path) -> None:
    done = run_program(tmp_path, INSIDE_A_TASK)
    found = journals(tmp_path)
    assert list(found) == ["w"], "the child opened no task"
    assert kinds(found["w"])["LLM_QUERY_END"] == TASKS + 1
    assert done.stderr.count("was opened before this process was forked") == 1


def test_a_run_is_not_sent_to_another_process_in_silence(tmp_path: Path) -> None:
    import pickle

    run = Run(run_id="r", runs_dir=tmp_path)
    with pytest.raises(UserError, match=r"Run\(run_id='r'\)"):
        pickle.dumps(run)


SPAWNED = """
import multiprocessing, sys
from joulebench import Run

def work(directory, number):
    with Run(model="m", run_id="r", runs_dir=directory, gateway_url="none", exporter_url="none") as run, run.task("t") as task:
        task.succeed()

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=work, args=(sys.argv[1], n)) for n in range(3)]
    [child.start() for child in children]
    [child.join(60) for child in children]
    assert [child.exitcode for child in children] == [0, 0, 0]
"""


def test_spawned_processes_share_a_run_by_its_id(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SPAWNED)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = journals(tmp_path)
    assert len(found) == 3
    assert all(kinds(events)["TASK_END"] == 1 for events in found.values())
