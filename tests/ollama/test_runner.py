"""``joulebench bench`` on a real Ollama, with a wire tap between: its results are what Ollama's own bytes add up to."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from joulebench import cli
from tests.ollama.server import MODEL, OllamaServer
from tests.ollama.tap import Tap
from tests.ollama.truth import Told, told
from tests.unit.exporter.exporter_process import exporter

pytestmark = [pytest.mark.ollama, pytest.mark.timeout(900)]

NOWHERE = "http://127.0.0.1:9"
TASKS = "write-*"
PATIENT = ["--task-timeout", "280"]
"""A prompt of over a thousand tokens takes one slow core a while."""


@dataclass(frozen=True)
class Results:
    """``calls``: what Ollama said to each call, and ``events`` of the journal that is about the calls, in the same order."""

    directory: Path
    calls: list[Told]
    asked: list[dict[str, Any]]

    @property
    def rows(self) -> list[dict[str, str]]:
        with (self.directory / "results.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def events(self, event_type: str) -> list[dict[str, Any]]:
        lines = [line for file in self.directory.glob("journal-*.jsonl") for line in file.read_text().splitlines()]
        return [event for event in map(json.loads, lines) if event["event_type"] == event_type]

    def tokens(self, column: str) -> int:
        return sum(int(row[column]) for row in self.rows)


def bench(tap: Tap, runs: Path, exporter_url: str, *flags: str) -> Results:
    """Begins with the model on disk alone, and without a warm-up, so that the first call loads it. The GPU is simulated."""
    nowhere = ["--gateway-url", NOWHERE, "--exporter-url", exporter_url, "--prometheus-url", "none"]
    places = ["--run-id", "real", "--runs-dir", str(runs), "--no-progress", "--idle-seconds", "0", "--no-warm-up", *PATIENT]
    argv = ["bench", "--ollama-url", tap.url, "--model", MODEL, "--tasks", TASKS, "--max-tokens", "80", *flags]
    assert cli.main([*argv, *nowhere, *places]) == 0
    assert cli.main(["export", "--run-id", "real", "--runs-dir", str(runs), "--prometheus-url", "none"]) == 0
    chats = tap.of("/api/chat")
    return Results(runs / "real", [told(exchange) for exchange in chats], [exchange.asked for exchange in chats])


@pytest.fixture(scope="module", params=["stream", "whole"])
def results(request: pytest.FixtureRequest, server: OllamaServer, tmp_path_factory: pytest.TempPathFactory) -> Results:
    server.load()
    server.unload()
    flags = ["--no-stream"] if request.param == "whole" else []
    with Tap(server.url) as tap, exporter("--gpu-source", "simulated", "--no-ollama") as watching:
        return bench(tap, tmp_path_factory.mktemp("runs"), watching.url, *flags)


def test_tokens_are_those_that_ollama_counted(results: Results) -> None:
    assert [row["task_id"] for row in results.rows] == ["write-hello", "write-list"]
    assert results.tokens("llm_call_count") == len(results.calls) > 0
    assert results.tokens("llm_error_count") == 0
    assert results.tokens("total_prompt_tokens") == sum(call.prompt_tokens for call in results.calls)
    assert results.tokens("total_completion_tokens") == sum(call.completion_tokens for call in results.calls)


def test_times_are_those_that_ollama_measured_and_the_first_call_pays_for_loading(results: Results) -> None:
    ends = results.events("LLM_QUERY_END")
    assert len(ends) == len(results.calls)
    for end, call in zip(ends, results.calls, strict=True):
        assert end["load_seconds"] == pytest.approx(call.durations["load_duration"])
        assert end["prefill_seconds"] == pytest.approx(call.durations["prompt_eval_duration"])
        assert end["decode_seconds"] == pytest.approx(call.durations["eval_duration"])
        # Ours is the time of the wire, theirs the time of the server.
        assert call.durations["total_duration"] <= end["duration_seconds"] + 0.05
    loads = [end["load_seconds"] for end in ends]
    assert loads[0] == max(loads) > 0.1
    assert sum(loads[1:]) < loads[0]


def test_time_to_first_token_is_measured_in_a_stream_and_never_made_up(results: Results) -> None:
    ends = results.events("LLM_QUERY_END")
    if results.asked[0]["stream"]:
        for end, call in zip(ends, results.calls, strict=True):
            server_side = call.durations["load_duration"] + call.durations["prompt_eval_duration"]
            assert 0.95 * server_side < end["ttft_seconds"] <= end["duration_seconds"]
            # A reply is nearly nothing but a call: without rows its first token would be seen only at its end.
            if call.completion_tokens > 10:
                assert end["duration_seconds"] - end["ttft_seconds"] > 0.5 * call.durations["eval_duration"]
        assert all(float(row["avg_ttft_ms"]) > 0 for row in results.rows)
    else:
        assert [end["ttft_seconds"] for end in ends] == [None] * len(ends)
        assert [row["avg_ttft_ms"] for row in results.rows] == [""] * len(results.rows)


def test_calls_have_a_confidence_from_rows_of_their_own(results: Results) -> None:
    given = [name for call in results.calls for name, _ in call.calls]
    starts = results.events("TOOL_CALL_START")
    # Of one that Ollama kept silent about there is only text.
    parsed = [start for start in starts if isinstance(start["args"], dict)]
    assert [start["tool_name"] for start in parsed] == given != []
    for start in parsed:
        assert start["span_status"] == "ok"
        assert 0.0 < start["confidence"] <= 1.0
    assert results.tokens("total_tool_calls") == len(starts) == sum(len(call.calls) or call.attempted for call in results.calls)
    scored = [start for start in starts if start["confidence"] is not None]
    assert results.tokens("tool_calls_with_confidence") == len(scored)
    assert any(0.0 < float(row["avg_tool_confidence"] or 0) <= 1.0 for row in results.rows)


def test_the_doctor_finds_nothing_wrong_with_it(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", str(results.directory), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tasks"] == 2
    assert {finding["severity"] for finding in found["findings"]}.isdisjoint({"failure"})
