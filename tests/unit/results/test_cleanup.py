"""Leftover groups on a real Pushgateway: only what Prometheus holds goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from joulebench import metrics
from joulebench.clients.pushgateway import Pushgateway
from joulebench.metrics.families import Sheet
from joulebench.push.journal import Journal
from joulebench.results.export import releasable_tasks, release_groups
from joulebench.results.journal import closed_workers
from joulebench.results.task import TaskKey
from joulebench.stack.process import Program, free_port
from tests.needs import need_program

pytestmark = pytest.mark.e2e


def test_only_settled_tasks_of_the_run_are_deleted(tmp_path: Path) -> None:
    program, port = need_program("pushgateway"), free_port()
    url = f"http://127.0.0.1:{port}"
    # Some packages persist to a file of the whole machine unless told otherwise.
    flags = [f"--web.listen-address=127.0.0.1:{port}", f"--persistence.file={tmp_path / 'data'}"]
    server = Program("pushgateway", [str(program), *flags], tmp_path / "log", f"{url}/-/ready")
    server.start()
    try:
        gateway = Pushgateway(url)
        keys = [
            {"job": "joulebench", "run_id": "r", "task_id": "a/b c", "worker": "w"},
            {"job": "joulebench", "run_id": "r", "task_id": "going on", "worker": "w"},
            {"job": "joulebench", "run_id": "other", "task_id": "a/b c", "worker": "w"},
            {"job": "joulebench", "run_id": "r", "worker": "w"},
        ]
        sheet = Sheet()
        sheet.value(metrics.TASK_START, 1.0, ("m", "s"))
        for key in keys:
            gateway.put(sheet.families(), key)
        assert release_groups(gateway, "r", {TaskKey("a/b c", "w")}) == 1
        left = [{name: value for name, value in key.items() if value} for key in gateway.groups()]
        assert sorted(left, key=str) == sorted(keys[1:], key=str)
        assert release_groups(gateway, "r", {TaskKey("going on", "w")}, {"other worker"}) == 1
        assert release_groups(gateway, "r", (), {"w"}) == 1
        assert [key["run_id"] for key in gateway.groups()] == ["other"]
        gateway.close()
    finally:
        server.stop()


def test_what_ended_a_moment_ago_is_left_to_its_benchmark() -> None:
    assert releasable_tasks({TaskKey("old", "w"): 100.0, TaskKey("new", "w"): 150.0}, now=170.0) == {TaskKey("old", "w")}


def test_a_worker_whose_journal_nobody_writes_has_left_its_groups(tmp_path: Path) -> None:
    for worker in ("alive", "dead", "just now"):
        (tmp_path / f"journal-{worker}.jsonl").touch()
    for worker in ("alive", "dead"):
        os.utime(tmp_path / f"journal-{worker}.jsonl", (1000.0, 1000.0))
    writer = Journal(tmp_path / "journal-alive.jsonl", "r", "alive")
    os.utime(tmp_path / "journal-alive.jsonl", (1000.0, 1000.0))
    os.utime(tmp_path / "journal-just now.jsonl", (1990.0, 1990.0))
    assert closed_workers(tmp_path, 2000.0, 60.0) == {"dead"}
    writer.close()
    assert closed_workers(tmp_path, 2000.0, 60.0) >= {"dead"}
