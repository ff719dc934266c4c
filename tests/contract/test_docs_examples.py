"""The examples of docs/LIBRARY.md and docs/CONNECTIONS.md work as they stand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from joulebench.settings import load_connections
from tests.contract.sources import ROOT

RESPONSE = {
    "object": "chat.completion",
    "choices": [
        {
            "finish_reason": "tool_calls",
            "message": {"tool_calls": [{"id": "c", "function": {"name": "sort", "arguments": '{"list": [2, 1]}'}}]},
        }
    ],
    "usage": {"prompt_tokens": 30, "completion_tokens": 8},
}


def fence(document: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", (ROOT / "docs" / document).read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_of_a_benchmark_records_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JOULEBENCH_GATEWAY_URL", "none")
    done: list[Any] = []

    def execute(name: str, arguments: object) -> str:
        done.append((name, arguments))
        return "[1, 2]"

    completions = SimpleNamespace(create=lambda **_: RESPONSE)
    client = SimpleNamespace(chat=SimpleNamespace(completions=completions))
    exec(fence("LIBRARY.md", "python"), {"client": client, "messages": [], "tools": ["sort"], "execute": execute})
    assert done == [("sort", {"list": [2, 1]})]
    (journal,) = tmp_path.rglob("journal-*.jsonl")
    events = {event["event_type"]: event for event in map(json.loads, journal.read_text().splitlines())}
    assert events["LLM_QUERY_END"]["prompt_tokens"] == 30
    assert (events["TOOL_CALL_END"]["result"], events["TASK_END"]["success"]) == ("[1, 2]", True)


def test_the_example_of_a_connections_file_is_accepted(tmp_path: Path) -> None:
    for name in ("ca.pem", "client.pem", "client-key.pem", "password", "token"):
        (tmp_path / name).write_text("x")
    text = fence("CONNECTIONS.md", "yaml").replace("/run/secrets/token", "token")
    (tmp_path / "connections.yml").write_text(text)
    settings = load_connections(tmp_path / "connections.yml")
    assert (settings["prometheus"].tenant, settings["pushgateway"].username) == ("team-a", "joulebench")
    assert settings["exporter"].ca_file == tmp_path / "ca.pem"
