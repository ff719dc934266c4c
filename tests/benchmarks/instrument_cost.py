"""What ``joulebench.instrument()`` adds to a call of the ollama and openai clients, whose server answers inside the process.

Calls with and without recording alternate, so that both see the same machine; what is added is the difference of their medians. A
journal on disk and a real Pushgateway take what is recorded.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import httpx

import joulebench
from joulebench.clock import Clock
from joulebench.push.run import Run
from joulebench.stack.native import NativeStack, Ports
from tests.benchmarks.report import Report
from tests.benchmarks.statistics import percentile

CALLS = 1000
CHUNKS = 50
MODEL = "scripted:1b"
MESSAGES = [{"role": "user", "content": "say"}]


def run(report: Report, clock: Clock) -> None:
    kinds = {**_ollama_calls(), **_openai_calls()}
    with tempfile.TemporaryDirectory(prefix="joulebench-bench-") as name:
        stack = NativeStack(Path(name) / "stack", Ports.free())
        gateway = stack.pushgateway()
        gateway.start()
        try:
            plain = {kind: _times(clock, call, CALLS // 4) for kind, call in kinds.items()}
            recording = Run(
                model=MODEL,
                gateway_url=stack.gateway_url,
                prometheus_url="none",
                exporter_url="none",
                runs_dir=Path(name) / "runs",
            )
            with recording as opened:
                seconds = {kind: _alternate(opened, clock, call) for kind, call in kinds.items()}
        finally:
            joulebench.instrument(enabled=False)
            gateway.stop()
    _print(report, plain, seconds)


def _ollama_calls() -> dict[str, Callable[[], object]]:
    import ollama

    whole = {"model": MODEL, "message": {"role": "assistant", "content": "one"}, "done": True, "eval_count": 4}
    chunk = {"model": MODEL, "message": {"role": "assistant", "content": "one"}, "done": False}
    stream = b"".join(json.dumps(part).encode() + b"\n" for part in [*[chunk] * CHUNKS, whole])

    def answer(request: httpx.Request) -> httpx.Response:
        if json.loads(request.content).get("stream"):
            return httpx.Response(200, content=stream)
        return httpx.Response(200, json=whole)

    client = ollama.Client("http://model", transport=httpx.MockTransport(answer))
    return {
        "ollama, whole": lambda: client.chat(MODEL, MESSAGES),
        f"ollama, {CHUNKS} chunks": lambda: _consume(client.chat(MODEL, MESSAGES, stream=True)),
    }


def _openai_calls() -> dict[str, Callable[[], object]]:
    import openai

    usage = {"prompt_tokens": 100, "completion_tokens": 4, "total_tokens": 104}
    message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "one"}}
    whole = {"id": "1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [message], "usage": usage}
    delta = {"index": 0, "delta": {"content": "one"}}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [delta]}
    events = [*[chunk] * CHUNKS, {**chunk, "choices": [], "usage": usage}]
    stream = b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in events) + b"data: [DONE]\n\n"

    def answer(request: httpx.Request) -> httpx.Response:
        if json.loads(request.content).get("stream"):
            return httpx.Response(200, content=stream, headers={"Content-Type": "text/event-stream"})
        return httpx.Response(200, json=whole)

    transport: Any = httpx.Client(transport=httpx.MockTransport(answer))
    client = openai.OpenAI(base_url="http://model/v1", api_key="none", http_client=transport)
    create = client.chat.completions.create
    return {
        "openai, whole": lambda: create(model=MODEL, messages=MESSAGES),  # type: ignore[arg-type]
        f"openai, {CHUNKS} chunks": lambda: _consume(create(model=MODEL, messages=MESSAGES, stream=True)),  # type: ignore[arg-type]
    }


def _consume(chunks: Iterable[object]) -> None:
    for _ in chunks:
        pass


def _times(clock: Clock, call: Callable[[], object], count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        began = clock.monotonic()
        call()
        seconds.append(clock.monotonic() - began)
    return seconds


def _alternate(opened: Run, clock: Clock, call: Callable[[], object]) -> dict[bool, list[float]]:
    """Seconds of each call by whether it was recorded."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    joulebench.instrument()
    with opened.task("calls"):
        for number in range(2 * CALLS):
            recorded = bool(number % 2)
            joulebench.instrument(enabled=recorded)
            seconds[recorded] += _times(clock, call, 1)
    return seconds


def _print(report: Report, plain: dict[str, list[float]], seconds: dict[str, dict[bool, list[float]]]) -> None:
    report.heading("Cost of an instrumented call to the benchmark that is measured")
    report.say(
        f"{CALLS} calls of each kind, alternately recorded and not; microseconds. A real Pushgateway, a journal on disk. 'never"
        " wrapped' was measured before; 'added' is the difference of the medians in the two columns before it."
    )
    rows = []
    for kind, times in seconds.items():
        off, on = 1e6 * median(times[False]), 1e6 * median(times[True])
        p99 = 1e6 * (percentile(times[True], 99) - percentile(times[False], 99))
        rows.append((kind, f"{1e6 * median(plain[kind]):.0f}", f"{off:.0f}", f"{on:.0f}", f"{on - off:.0f}", f"{p99:.0f}"))
    report.table(("", "never wrapped", "not recorded", "recorded", "added p50", "added p99"), rows)
