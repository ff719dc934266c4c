"""The metering proxy in front of a real Ollama, with a wire tap between: its numbers are those of Ollama's own bytes."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import requests

from joulebench import metrics as m
from joulebench.clock import wait_until
from tests.ollama.questions import BOTH, DIVIDE, HAIKU, TIME, WEATHER, WORDS, chat, completion
from tests.ollama.server import MODEL, OllamaServer
from tests.ollama.tap import Tap
from tests.ollama.truth import Told, told
from tests.unit.proxy.conftest import StartProxy, start_proxy

__all__ = ["start_proxy"]

pytestmark = pytest.mark.ollama

QUESTIONS = (WEATHER, TIME, DIVIDE, HAIKU, BOTH)
DOORS = {"/api/chat": chat, "/v1/chat/completions": completion}
WIRES = [(path, stream) for path in DOORS for stream in (True, False)]
NAMED = [f"{path} {'stream' if stream else 'whole'}" for path, stream in WIRES]


def post(url: str, body: dict[str, Any]) -> requests.Response:
    answer = requests.post(url, json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize(("path", "stream"), WIRES, ids=NAMED)
def test_every_number_is_the_one_that_ollama_told(tap: Tap, start_proxy: StartProxy, path: str, stream: bool) -> None:
    proxy = start_proxy(tap.url, add_logprobs=3)
    for number, question in enumerate(QUESTIONS):
        post(f"{proxy.url}/run/r/task/t{number}{path}", DOORS[path](question, stream=stream))
    proxy.wait_until_over(len(QUESTIONS))
    assert proxy.value(m.PROXY_REQUESTS, result="ok") == len(QUESTIONS)
    seen: list[Told] = [told(exchange) for exchange in tap.of(path)]
    assert len(seen) == len(QUESTIONS)
    for number, truth in enumerate(seen):
        task = f"t{number}"
        assert proxy.value(m.PROXY_PROMPT_TOKENS, task_id=task) == truth.prompt_tokens
        assert proxy.value(m.PROXY_COMPLETION_TOKENS, task_id=task) == truth.completion_tokens
        # The end of a reply is a token without a row, unless it ended by length.
        assert truth.completion_tokens - len(truth.rows) in (0, 1)
        outcomes = {outcome: proxy.value(m.PROXY_TOOL_CALLS, task_id=task, outcome=outcome) for outcome in m.TOOL_OUTCOMES}
        assert {outcome: count for outcome, count in outcomes.items() if count} == truth.outcomes, QUESTIONS[number]
        scores = proxy.value(m.PROXY_TASK_CONFIDENCE, "_count", task_id=task)
        assert (scores or 0) == sum(truth.outcomes[outcome] for outcome in ("ok", "undeclared", "schema_invalid"))
        first = proxy.value(m.PROXY_TASK_TTFT, "_count", task_id=task)
        assert first == (1 if stream else None)
        if truth.durations:
            assert proxy.value(m.PROXY_PREFILL, "_sum", task_id=task) == pytest.approx(truth.durations["prompt_eval_duration"])
            assert proxy.value(m.PROXY_DECODE, "_sum", task_id=task) == pytest.approx(truth.durations["eval_duration"])
            assert proxy.value(m.PROXY_LOAD, "_sum", task_id=task) == pytest.approx(truth.durations["load_duration"])
            rest = 2 * truth.durations["total_duration"] - sum(truth.durations.values())
            assert proxy.value(m.PROXY_OTHER_TIME, "_sum", task_id=task) == pytest.approx(rest, abs=1e-6)
    # What Ollama does not tell is not made up: how much of a prompt was cached.
    assert proxy.value(m.PROXY_PREFILL_TOKENS) is None
    assert proxy.value(m.PROXY_CACHED_TOKENS) is None


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_calls_that_ollama_keeps_silent_about_are_counted_as_what_they_are(
    tap: Tap, start_proxy: StartProxy, stream: bool
) -> None:
    proxy = start_proxy(tap.url, add_logprobs=3)
    for question in (DIVIDE, HAIKU):
        got = post(f"{proxy.url}/api/chat", chat(question, stream=stream))
        assert b"tool_calls" not in got.content
        assert b"logprob" not in got.content
    proxy.wait_until_over(2)
    seen = [told(exchange) for exchange in tap.of("/api/chat")]
    assert all(truth.swallowed for truth in seen), [truth.raw for truth in seen]
    assert sum((truth.outcomes for truth in seen), Counter()) == {"undeclared": 1, "malformed": 1}
    assert proxy.value(m.PROXY_TOOL_CALLS, outcome="undeclared") == 1
    assert proxy.value(m.PROXY_TOOL_CALLS, outcome="malformed") == 1
    assert proxy.value(m.PROXY_TOOL_CALLS) == 2


def steady(reply: bytes) -> bytes:
    """Without what differs from one answer to the same question to the next: ids, times and durations, never a count."""
    return re.sub(rb'"(id|created|created_at|[a-z_]+_duration)":("[^"]*"|\d+)', b"", reply)


@pytest.mark.parametrize("add_usage", [True, False], ids=["usage", "plain"])
@pytest.mark.parametrize(("path", "stream"), WIRES, ids=NAMED)
def test_with_logprobs_added_and_taken_out_again_the_client_gets_the_same_bytes(
    ollama: OllamaServer, start_proxy: StartProxy, path: str, stream: bool, add_usage: bool
) -> None:
    proxy = start_proxy(ollama.url, add_logprobs=3, add_usage=add_usage)
    for question in (WEATHER, DIVIDE, WORDS):
        body = DOORS[path](question, stream=stream, tools=question != WORDS, tokens=40)
        # Once for the cache: what Ollama answers from it is the same each time.
        post(ollama.url + path, body)
        direct, through = post(ollama.url + path, body), post(proxy.url + path, body)
        assert steady(through.content) == steady(direct.content), question
        assert through.headers["Content-Type"] == direct.headers["Content-Type"]
    proxy.wait_until_over(3)
    assert proxy.value(m.PROXY_REFUSED_ADDITIONS) is None


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_generate_is_metered_too(tap: Tap, start_proxy: StartProxy, stream: bool) -> None:
    proxy = start_proxy(tap.url, add_logprobs=3)
    body = {"model": MODEL, "prompt": WORDS, "stream": stream, "options": {"temperature": 0, "num_predict": 24}}
    post(f"{proxy.url}/api/generate", body)
    proxy.wait_until_over(1)
    (exchange,) = tap.of("/api/generate")
    assert exchange.asked == body
    truth = told(exchange)
    assert truth.content
    assert proxy.value(m.PROXY_PROMPT_TOKENS) == truth.prompt_tokens
    assert proxy.value(m.PROXY_COMPLETION_TOKENS) == truth.completion_tokens == 24
    assert proxy.value(m.PROXY_DECODE, "_sum") == pytest.approx(truth.durations["eval_duration"])
    assert proxy.value(m.PROXY_TASK_TTFT, "_count") == (1 if stream else None)
    assert proxy.value(m.PROXY_TOOL_CALLS) is None


def test_a_clients_own_wish_for_logprobs_is_left_alone(ollama: OllamaServer, tap: Tap, start_proxy: StartProxy) -> None:
    proxy = start_proxy(tap.url, add_logprobs=3)
    body = chat(WEATHER, logprobs=True)
    got = post(f"{proxy.url}/api/chat", body)
    (exchange,) = tap.of("/api/chat")
    assert exchange.asked == body
    assert got.content == exchange.reply
    proxy.wait_until_over(1)
    assert proxy.value(m.PROXY_SPANS, span_status="ok") == 1


def test_a_refusal_of_ollama_goes_through_as_it_is(ollama: OllamaServer, start_proxy: StartProxy) -> None:
    proxy = start_proxy(ollama.url, add_logprobs=3)
    body = chat(WEATHER) | {"model": "nobody-has-this"}
    direct = requests.post(f"{ollama.url}/api/chat", json=body, timeout=60)
    through = requests.post(f"{proxy.url}/api/chat", json=body, timeout=60)
    assert (through.status_code, through.content) == (direct.status_code, direct.content)
    assert direct.status_code == 404
    proxy.wait_until_over(1)
    assert proxy.value(m.PROXY_REQUESTS, result="refused") == 1


def test_a_request_that_only_loads_or_unloads_has_no_tokens_and_not_none_of_them(
    ollama: OllamaServer, start_proxy: StartProxy
) -> None:
    proxy = start_proxy(ollama.url)
    for keep_alive in (0, "10m"):
        post(f"{proxy.url}/api/generate", {"model": MODEL, "keep_alive": keep_alive, "stream": False})
    proxy.wait_until_over(2)
    assert ollama.loaded() == [f"{MODEL}:latest"]
    assert proxy.value(m.PROXY_REQUESTS, result="ok") == 2
    assert proxy.value(m.PROXY_COMPLETION_TOKENS) is None
    assert proxy.value(m.PROXY_DECODE, "_count") is None
    assert proxy.value(m.PROXY_UNREAD_REQUESTS, cause="no_usage") == 2


def test_a_client_that_leaves_ends_the_work_of_ollama_too(ollama: OllamaServer, start_proxy: StartProxy) -> None:
    proxy = start_proxy(ollama.url)
    # A line of its log for each request that is over; all these tokens would take it a minute or two.
    over = r'(POST +"/api/generate")'
    before = len(ollama.said(over))
    body = {"model": MODEL, "prompt": WORDS, "options": {"temperature": 0, "num_predict": 3900}}
    with requests.post(f"{proxy.url}/api/generate", json=body, stream=True, timeout=120) as answer:
        assert next(answer.iter_lines(chunk_size=None))
    assert wait_until(lambda: proxy.value(m.PROXY_REQUESTS, result="client_gone") == 1, 30.0)
    assert wait_until(lambda: len(ollama.said(over)) > before, 30.0)
    assert proxy.value(m.PROXY_COMPLETION_TOKENS) is None
