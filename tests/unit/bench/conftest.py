"""A run of the real agent against the scripted server, with nothing to push to; what it measured is read from its journal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from joulebench.bench.agent import Agent, Outcome
from joulebench.bench.grading import Check
from joulebench.bench.suites import TaskSpec
from joulebench.clock import SystemClock
from joulebench.llm.chat import ChatModel, ToolMode
from joulebench.llm.client import OllamaChat, OpenAIChat
from joulebench.llm.http import ModelServerHttp
from joulebench.push.run import Run
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import MODEL

NOWHERE = "http://127.0.0.1:9"
CLOCK = SystemClock()

Events = list[dict[str, Any]]


def openai(server: ModelServer, mode: ToolMode = "native", stream: bool = True) -> OpenAIChat:
    return OpenAIChat(ModelServerHttp(server.openai_url, CLOCK), MODEL, CLOCK, tool_mode=mode, stream=stream)


def ollama(server: ModelServer, mode: ToolMode = "native", stream: bool = True) -> OllamaChat:
    return OllamaChat(ModelServerHttp(server.ollama_url, CLOCK), MODEL, CLOCK, tool_mode=mode, stream=stream)


def write_hello(max_turns: int = 6, timeout_seconds: float = 20.0) -> TaskSpec:
    """Passes when out.txt holds hello."""
    grade = (Check("file_equals", {"path": "out.txt", "text": "hello"}),)
    return TaskSpec("write-hello", "Write a file", "Write 'hello' to out.txt.", {}, grade, max_turns, timeout_seconds)


def journal(directory: Path) -> Events:
    return [json.loads(line) for file in sorted(directory.glob("journal-*.jsonl")) for line in file.read_text().splitlines()]


def of_type(events: Events, event_type: str) -> Events:
    return [event for event in events if event["event_type"] == event_type]


Work = Callable[[ChatModel, TaskSpec], tuple[Outcome, Events]]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """Works on one task in a run of its own; gives the outcome and the journal."""
    for name in ("PROMETHEUS", "EXPORTER"):
        monkeypatch.delenv(f"JOULEBENCH_{name}_URL", raising=False)

    def run_task(model: ChatModel, spec: TaskSpec) -> tuple[Outcome, Events]:
        outcome = Outcome(spec.id)
        with Run(model.name, "unit", gateway_url=NOWHERE, runs_dir=tmp_path / "runs", drain_seconds=0.0) as run:
            Agent(run, model, CLOCK).work(spec, outcome)
        return outcome, journal(run.directory)

    return run_task
