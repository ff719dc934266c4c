"""Requests of a client with one base URL carry the task that its launcher names in a file, unless the client names one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import requests

from joulebench import metrics as m
from joulebench.files import write_atomic
from joulebench.proxy.request import TaskFile, parse_target
from tests.fakes.raw_upstream import RawUpstream, whole
from tests.unit.proxy.conftest import StartProxy

REPLY = json.dumps({"model": "m", "message": {"content": "x"}, "done": True, "prompt_eval_count": 3, "eval_count": 2}).encode()


def named(path: Path, target: str = "/v1/chat/completions") -> tuple[str, str]:
    found = TaskFile(path).name(parse_target("POST", target, {}))
    return found.run, found.task


def test_requests_carry_the_task_that_the_file_names_when_they_come(start_proxy: StartProxy, tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    with RawUpstream(lambda _: whole(REPLY, kind="application/json")) as upstream:
        proxy = start_proxy(upstream.url, task_file=path)
        for number, names in enumerate(({"run_id": "r", "task_id": "a"}, {"run_id": "r", "task_id": "b"}, {}), start=1):
            write_atomic(path, json.dumps(names))
            requests.post(f"{proxy.url}/api/chat", json={"model": "m", "stream": False}, timeout=10)
            proxy.wait_until_over(number)
        tokens = {
            task: proxy.value(m.PROXY_COMPLETION_TOKENS, run_id=run, task_id=task)
            for run, task in (("r", "a"), ("r", "b"), ("", ""))
        }
    assert tokens == {"a": 2, "b": 2, "": 2}


@pytest.mark.parametrize("content", ["", "{}", "[1]", "{", '{"task_id": "t"}', '{"run_id": 5}'])
def test_a_file_of_another_form_names_no_task(content: str, tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    path.write_text(content)
    assert named(path) == ("", "")


def test_a_missing_file_names_no_task(tmp_path: Path) -> None:
    assert named(tmp_path / "none.json") == ("", "")


def test_a_name_of_the_client_outweighs_the_file(tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    path.write_text('{"run_id": "r", "task_id": "t"}')
    assert named(path, "/run/own/task/mine/v1/chat/completions") == ("own", "mine")
    assert named(path) == ("r", "t")


def test_what_is_no_readable_file_names_no_task_and_stops_no_request(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 4000)
    no_text = tmp_path / "no-text.json"
    no_text.write_bytes(b'\xff{"run_id": "r"}')
    for path in (pipe, deep, no_text, tmp_path, Path("/dev/zero")):
        assert named(path) == ("", "")
