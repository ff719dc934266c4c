"""A response of any client library becomes the numbers of its call, whole or streamed, and odd ones harm nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import joulebench
from joulebench import Run
from joulebench.push.responses import detect_api, tool_names
from tests.unit.push.conftest import events

TOOLS = [{"type": "function", "function": {"name": "read_file"}}, {"name": "write_file", "input_schema": {}}, "list_files"]

OPENAI = {
    "id": "x",
    "object": "chat.completion",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "read_file", "arguments": '{"path": "a"}'}}],
            },
        }
    ],
    "usage": {"prompt_tokens": 30, "completion_tokens": 8, "total_tokens": 38, "prompt_tokens_details": {"cached_tokens": 20}},
}
OLLAMA = {
    "model": "m",
    "message": {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "read_file", "arguments": {"path": "a"}}}],
    },
    "done": True,
    "done_reason": "stop",
    "prompt_eval_count": 30,
    "prompt_eval_duration": 200_000_000,
    "eval_count": 8,
    "eval_duration": 400_000_000,
    "load_duration": 50_000_000,
}
ANTHROPIC = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "tool_use", "id": "t", "name": "read_file", "input": {"path": "a"}}],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 10, "cache_read_input_tokens": 20, "output_tokens": 8},
}
RESPONSES = {
    "object": "response",
    "status": "completed",
    "output": [{"type": "function_call", "call_id": "c", "name": "read_file", "arguments": '{"path": "a"}'}],
    "usage": {"input_tokens": 30, "output_tokens": 8},
}


@dataclass
class LibraryObject:
    """An object as openai, ollama and anthropic make them; ``old``: of a version whose dump takes no arguments."""

    content: dict[str, Any]
    old: bool = False

    def model_dump(self, **arguments: object) -> dict[str, Any]:
        if self.old and arguments:
            raise TypeError("unexpected keyword argument")
        return self.content


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(model="m", runs_dir=tmp_path, run_id="r", gateway_url="none", exporter_url="none")


def ends(run: Run) -> list[dict[str, Any]]:
    return events(run.directory, "LLM_QUERY_END")


@pytest.mark.parametrize(
    "wrap", [dict, LibraryObject, lambda content: LibraryObject(content, old=True)], ids=["dict", "object", "old"]
)
@pytest.mark.parametrize("response", [OPENAI, OLLAMA, ANTHROPIC, RESPONSES], ids=["openai", "ollama", "anthropic", "responses"])
def test_a_response_gives_counts_and_tool_calls(run: Run, response: dict[str, Any], wrap: Any) -> None:
    with run, run.task("t") as task, task.call() as call:
        (requested,) = call.record(wrap(response), TOOLS)
        with call.tool(requested) as tool:
            tool.result("content")
    (end,) = ends(run)
    assert (end["prompt_tokens"], end["completion_tokens"], end["status"]) == (30, 8, "success")
    (start,) = events(run.directory, "TOOL_CALL_START")
    assert (start["tool_name"], start["args"], start["call"]) == ("read_file", {"path": "a"}, 1)
    assert (start["span_status"], start["confidence"]) == ("no_logprobs", None)


def test_times_of_the_server_are_taken(run: Run) -> None:
    with run, run.task("t") as task, task.call() as call:
        call.record(OLLAMA)
    (end,) = ends(run)
    assert (end["prefill_seconds"], end["decode_seconds"], end["decode_tokens"], end["load_seconds"]) == (0.2, 0.4, 8, 0.05)
    assert end["ttft_seconds"] is None


def chunk(**delta: object) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


CHUNKS = [
    chunk(role="assistant", content=""),
    *(chunk(content=f"word{number} ") for number in range(5)),
    {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"object": "chat.completion.chunk", "choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 5}},
]


def test_a_stream_is_passed_on_unchanged_and_timed(run: Run) -> None:
    with run, run.task("t") as task, task.call() as call:
        seen = list(call.stream(iter(CHUNKS)))
    assert all(one is other for one, other in zip(seen, CHUNKS, strict=True))
    (end,) = ends(run)
    assert (end["prompt_tokens"], end["completion_tokens"], end["decode_tokens"]) == (30, 5, 4)
    assert 0 <= end["ttft_seconds"] <= end["duration_seconds"]
    assert len(events(run.directory, "LLM_FIRST_TOKEN_RECEIVED")) == 1


def test_an_asynchronous_stream_is_the_same(run: Run) -> None:
    async def arriving() -> AsyncIterator[dict[str, Any]]:
        for one in CHUNKS:
            await asyncio.sleep(0)
            yield one

    async def work() -> list[dict[str, Any]]:
        with run.task("t") as task, task.call() as call:
            return [one async for one in call.astream(arriving())]

    with run:
        assert asyncio.run(work()) == CHUNKS
    (end,) = ends(run)
    assert (end["prompt_tokens"], end["completion_tokens"], end["status"]) == (30, 5, "success")


def test_a_stream_that_the_caller_leaves_keeps_what_came(run: Run) -> None:
    with run, run.task("t") as task:
        with task.call() as call:
            stream = call.stream(
                iter([*CHUNKS[:3], {**CHUNKS[3], "usage": {"prompt_tokens": 30, "completion_tokens": 3}}, *CHUNKS])
            )
            for _ in range(4):
                next(stream)
        stream.close()  # type: ignore[attr-defined]
    (end,) = ends(run)
    assert (end["completion_tokens"], end["status"]) == (3, "success")


def test_a_stream_that_breaks_off_is_an_error_that_goes_on(run: Run) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from CHUNKS[:3]
        raise ConnectionError("reset by peer")

    with run, run.task("t") as task, task.call() as call, pytest.raises(ConnectionError, match="reset"):
        list(call.stream(broken()))
    (end,) = ends(run)
    assert (end["status"], end["error"]) == ("error", "ConnectionError: reset by peer")
    assert end["ttft_seconds"] is not None


def test_an_error_in_a_response_is_the_error_of_the_call(run: Run) -> None:
    with run, run.task("t") as task, task.call() as call:
        call.record({"error": {"message": "model not found", "type": "invalid_request_error"}})
    (end,) = ends(run)
    assert (end["status"], end["error"]) == ("error", "model not found")


class Explodes:
    def model_dump(self, **_: object) -> dict[str, Any]:
        raise RuntimeError("no")

    def __iter__(self) -> Iterator[object]:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "response",
    [None, "text", 7, [], {}, {"choices": None}, {"choices": [None]}, {"done": 1}, {"type": "message", "content": 7}, Explodes()],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_response_ends_the_call_without_numbers(run: Run, response: object, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL), run, run.task("t") as task, task.call() as call:
        assert call.record(response, TOOLS) == []
    (end,) = ends(run)
    assert (end["prompt_tokens"], end["completion_tokens"]) == (None, None)


def test_a_call_is_recorded_once(run: Run) -> None:
    with run, run.task("t") as task, task.call() as call:
        call.record(OPENAI)
        call.record(OLLAMA)
        call.finish(1, 1)
        list(call.stream(iter(CHUNKS)))
    assert len(ends(run)) == 1


def logprob(token: str, value: float) -> dict[str, Any]:
    return {"token": token, "logprob": value, "bytes": list(token.encode()), "top_logprobs": []}


def test_confidence_of_a_response_is_a_public_function() -> None:
    name = [("<tool_call>", -0.01), ('{"name": "', -0.01), ("read", -0.1), ("_file", -0.01)]
    rest = [('", "arguments": {"path": "', -0.01), ("a", -0.5), ('"}}', -0.01), ("</tool_call>", -0.01)]
    choice: Any = OPENAI["choices"]
    with_rows = {**OPENAI, "choices": [{**choice[0], "logprobs": {"content": [logprob(*row) for row in (*name, *rest)]}}]}
    callable_room: Any = joulebench.confidence
    (found,) = callable_room(with_rows, TOOLS)
    assert found.span_status == "ok"
    assert found.score == pytest.approx(2.718281828**-0.5)
    assert joulebench.response_confidence(LibraryObject(with_rows), TOOLS) == [found]
    (without,) = joulebench.response_confidence(OPENAI, TOOLS)
    assert (without.span_status, without.score) == ("no_logprobs", None)
    assert joulebench.response_confidence("nonsense", []) == []


def test_tools_are_named_in_any_form() -> None:
    def search(query: str) -> str:
        return query

    assert tool_names([*TOOLS, search, LibraryObject({"name": "object"}), 7, {}]) == [
        "read_file",
        "write_file",
        "list_files",
        "search",
        "object",
    ]


def test_apis_are_seen_by_their_shape() -> None:
    assert detect_api({"choices": [{"text": "a"}]}) is not detect_api({"choices": [{"delta": {}}]})
    assert detect_api({"model": "m", "created_at": "now"}) is None


def test_calls_that_are_over_are_added(run: Run) -> None:
    with run, run.task("t") as task:
        now = run.clock.unix()
        call = task.add_call(now - 2, now - 1, first_token=now - 1.5, response=OPENAI, tools=TOOLS, completion_tokens=9)
        assert call is not None
        for requested in call.requested:
            task.add_tool(requested, start=now - 1, end=now - 0.5, call=call, result="content")
        task.add_tool("list_files", {}, start=now - 0.5, end=now - 0.4, outcome="tool_error", error="denied")
        failed = task.add_call(now - 0.4, now - 0.3, model="other", error="timeout")
        assert failed is not None
    first, second = ends(run)
    assert (first["timestamp"], first["duration_seconds"], first["ttft_seconds"]) == (
        now - 1,
        pytest.approx(1.0),
        pytest.approx(0.5),
    )
    assert (first["prompt_tokens"], first["completion_tokens"]) == (30, 9)
    assert (second["status"], second["error"]) == ("error", "timeout")
    tools = events(run.directory, "TOOL_CALL_END")
    assert [(tool["tool_name"], tool["outcome"], tool["timestamp"]) for tool in tools] == [
        ("read_file", "ok", now - 0.5),
        ("list_files", "tool_error", now - 0.4),
    ]
    assert [start["call"] for start in events(run.directory, "TOOL_CALL_START")] == [1, 1]


@pytest.mark.parametrize(("start", "end"), [(5.0, 4.0), ("a", 5.0), (None, None), (float("nan"), 5.0), (-5.0, 5.0), (1.0, 1e300)])
def test_times_that_cannot_be_are_not_recorded(run: Run, start: Any, end: Any) -> None:
    with run, run.task("t") as task:
        assert task.add_call(start, end) is None
        task.add_tool("f", {}, start=start, end=end)
    assert ends(run) == []
    assert events(run.directory, "TOOL_CALL_END") == []


def test_tools_of_overlapping_calls_are_bound_to_their_own_call(run: Run) -> None:
    with run, run.task("t") as task:
        calls = [task.call() for _ in range(4)]
        for call in calls:
            call.__enter__()
        for call in calls:
            (requested,) = call.record(OPENAI, TOOLS)
            with call.tool(requested):
                pass
            with call.tool("write_file", {"path": "b"}):
                pass
    starts = events(run.directory, "TOOL_CALL_START")
    assert [start["call"] for start in starts] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert [start["tool_call"] for start in starts] == list(range(1, 9))
