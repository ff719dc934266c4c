"""What the proxy counts is what the scripted model server did, request by request and for each protocol."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest
import requests

from joulebench import metrics as m
from joulebench.clock import SystemClock
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import Turn, call, call_text, say, swallowed
from tests.unit.proxy.conftest import StartProxy
from tests.unit.proxy.seen import wait_for

CLOCK = SystemClock()
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
        },
    }
    for name in ("read_file", "write_file")
]


class Scene(NamedTuple):
    """``outcomes``: what the calls of the turn are to be counted as."""

    turn: Turn
    outcomes: dict[str, int]


SCENES = [
    Scene(say("two plus two is four"), {}),
    Scene(call("read_file", path="a.txt").with_(prompt_tokens=321, silent_tokens=1), {"ok": 1}),
    Scene(call("read_file", file="a.txt"), {"schema_invalid": 1}),
    Scene(call("delete_file", path="a.txt"), {"undeclared": 1}),
    Scene(
        Turn(
            raw='<tool_call>{"name":"read_file","arguments":{"path":"a"}}</tool_call><tool_call>{"name":"write_file","arguments":{"path":"b"}}</tool_call>',
            calls=(("read_file", '{"path":"a"}'), ("write_file", '{"path":"b"}')),
        ),
        {"ok": 2},
    ),
    Scene(say("that is all").with_(prompt_tokens=7, cached_tokens=5), {}),
]
WIRES = {
    "openai stream": ("/v1/chat/completions", True),
    "openai whole": ("/v1/chat/completions", False),
    "ollama stream": ("/api/chat", True),
    "ollama whole": ("/api/chat", False),
}


@pytest.mark.parametrize("add_logprobs", [0, 2])
@pytest.mark.parametrize("wire", WIRES)
def test_tokens_and_calls_of_every_request_are_those_of_the_model_server(
    start_proxy: StartProxy, wire: str, add_logprobs: int
) -> None:
    path, stream = WIRES[wire]
    with ModelServer([scene.turn for scene in SCENES]) as server:
        proxy = start_proxy(server.ollama_url, add_logprobs=add_logprobs)
        for number in range(len(SCENES)):
            body = {"model": "scripted", "stream": stream, "messages": [], "tools": TOOLS}
            got = requests.post(f"{proxy.url}/run/r1/task/t{number}{path}", json=body, timeout=5)
            assert got.status_code == 200
            assert b"logprob" not in got.content
        proxy.wait_until_over(len(SCENES))
    numbers = proxy.numbers()
    for number, (turn, outcomes) in enumerate(SCENES):
        labels = {"run_id": "r1", "task_id": f"t{number}", "model": "scripted"}

        def told(metric: m.Metric, suffix: str = "", labels: dict[str, str] = labels, **more: str) -> float | None:
            return numbers.get((metric.name + suffix, frozenset({**labels, **more}.items())))

        assert told(m.PROXY_REQUESTS, result="ok") == 1
        assert told(m.PROXY_PROMPT_TOKENS) == turn.prompt_tokens
        assert told(m.PROXY_COMPLETION_TOKENS) == turn.completion_tokens
        assert told(m.PROXY_DECODE_TOKENS) == turn.completion_tokens
        assert told(m.PROXY_DECODE, "_sum") == pytest.approx(turn.decode_ms / 1000)
        assert told(m.PROXY_PREFILL, "_sum") == pytest.approx(turn.prefill_ms / 1000)
        # Ollama does not tell what its prefix cache held, so there is no count that belongs to the prefill time.
        evaluated = turn.prompt_tokens - turn.cached_tokens if path.startswith("/v1") else None
        assert told(m.PROXY_PREFILL_TOKENS) == evaluated
        found = {outcome: told(m.PROXY_TOOL_CALLS, outcome=outcome) for outcome in m.TOOL_OUTCOMES}
        assert {outcome: count for outcome, count in found.items() if count is not None} == outcomes
        sure = told(m.PROXY_TASK_CONFIDENCE, "_count") or 0
        assert sure == (sum(outcomes.values()) if add_logprobs else 0)
    calls = sum(itertools.chain.from_iterable(scene.outcomes.values() for scene in SCENES))
    assert proxy.value(m.PROXY_SPANS, span_status="ok" if add_logprobs else "no_logprobs") == calls


@pytest.mark.parametrize("wire", ["openai stream", "ollama stream"])
def test_calls_that_the_servers_parser_dropped_are_counted_as_what_they_are(start_proxy: StartProxy, wire: str) -> None:
    path, stream = WIRES[wire]
    turns = [
        swallowed('<tool_call>{"name": "rm", "arguments": {"path": "a"}}</tool_call>'),
        swallowed('<tool_call>{"name": "read_file", "arguments": {"path": </tool_call>'),
        call_text("read_file", "{not json") if path.startswith("/v1") else swallowed('<tool_call>{"name": "read_file"'),
    ]
    with ModelServer(turns) as server:
        proxy = start_proxy(server.ollama_url, add_logprobs=1)
        for _ in turns:
            body = {"model": "scripted", "stream": stream, "messages": [], "tools": TOOLS}
            assert requests.post(f"{proxy.url}{path}", json=body, timeout=5).status_code == 200
        proxy.wait_until_over(len(turns))
    assert proxy.value(m.PROXY_TOOL_CALLS, outcome="undeclared") == 1
    assert proxy.value(m.PROXY_TOOL_CALLS, outcome="malformed") == 2
    assert proxy.value(m.PROXY_TOOL_CALLS, outcome="ok") is None


@pytest.mark.parametrize("wire", ["openai stream", "ollama whole"])
def test_a_call_that_was_dropped_beside_one_that_was_given_is_counted_too(start_proxy: StartProxy, wire: str) -> None:
    path, stream = WIRES[wire]
    given = '<tool_call>{"name":"read_file","arguments":{"path":"a"}}</tool_call>'
    dropped = '<tool_call>{"name":"rm","arguments":{"path":"b"}}</tool_call>'
    turn = Turn(raw=given + dropped, calls=(("read_file", '{"path":"a"}'),))
    with ModelServer([turn]) as server:
        proxy = start_proxy(server.ollama_url, add_logprobs=1)
        body = {"model": "scripted", "stream": stream, "messages": [], "tools": TOOLS}
        assert b"rm" not in requests.post(f"{proxy.url}{path}", json=body, timeout=5).content
        proxy.wait_until_over(1)
    assert proxy.value(m.PROXY_TOOL_CALLS, outcome="ok") == 1
    assert proxy.value(m.PROXY_TOOL_CALLS, outcome="undeclared") == 1
    assert proxy.value(m.PROXY_TOOL_CALLS) == 2


@pytest.mark.parametrize("wire", ["openai stream", "ollama stream"])
def test_the_time_to_first_token_lies_between_its_sending_and_its_arrival(start_proxy: StartProxy, wire: str) -> None:
    """Lower bound strict: nothing is told earlier than it was. Upper bound: the client's own clock."""
    path, stream = WIRES[wire]
    with ModelServer([say("one two three four").with_(first_token_after=0.15, token_gap=0.02)]) as server:
        proxy = start_proxy(server.ollama_url)
        began = CLOCK.monotonic()
        with requests.post(f"{proxy.url}{path}", json={"model": "m", "stream": stream}, stream=True, timeout=5) as got:
            lines = got.iter_lines(chunk_size=None)
            arrived = next(CLOCK.monotonic() for line in lines if b'"content": "one"' in line)
            rest = list(lines)
        # Read to its end: a client that leaves before is counted as one that left.
        assert any(b"four" in line for line in rest)
        proxy.wait_until_over(1)
    told = proxy.value(m.PROXY_TASK_TTFT, "_sum")
    assert told is not None
    assert 0.15 <= told <= arrived - began
    assert proxy.value(m.PROXY_TTFT, "_count", model="m") == 1
    assert proxy.value(m.PROXY_TOKEN_GAP, "_count") == 3
    gaps = proxy.value(m.PROXY_TOKEN_GAP, "_sum")
    assert gaps is not None
    assert gaps >= 0.06 - 0.005


def test_a_tool_call_that_comes_at_once_has_no_time_to_first_token(start_proxy: StartProxy) -> None:
    with ModelServer([call("read_file", path="a")]) as server:
        proxy = start_proxy(server.ollama_url)
        requests.post(f"{proxy.url}/v1/chat/completions", json={"model": "m", "stream": True, "tools": TOOLS}, timeout=5)
        proxy.wait_until_over(1)
    assert proxy.value(m.PROXY_TASK_TTFT, "_count") is None
    assert proxy.value(m.PROXY_COMPLETION_TOKENS) is not None


def test_logprobs_that_are_refused_are_given_up_for_that_kind_of_request_only(start_proxy: StartProxy) -> None:
    turns = [call("read_file", path="a")] * 4
    body = {"model": "m", "tools": TOOLS}
    with ModelServer(turns, logprobs="refused_with_tools_and_stream") as server:
        proxy = start_proxy(server.ollama_url, add_logprobs=1)
        url = f"{proxy.url}/v1/chat/completions"
        for stream in (True, True, False, True):
            assert requests.post(url, json={**body, "stream": stream}, timeout=5).status_code == 200
        proxy.wait_until_over(4)
        asked = [("logprobs" in exchange.body, exchange.body["stream"], exchange.refused) for exchange in server.exchanges]
    assert asked == [
        (True, True, True),
        (False, True, False),
        (False, True, False),
        (True, False, False),
        (False, True, False),
    ]
    assert proxy.value(m.PROXY_REFUSED_ADDITIONS, model="m") == 1
    assert proxy.value(m.PROXY_TOOL_CALLS, outcome="ok") == 4
    assert proxy.value(m.PROXY_TASK_CONFIDENCE, "_count") == 1


def test_a_refusal_that_the_client_earned_itself_is_its_own(start_proxy: StartProxy) -> None:
    with ModelServer([], logprobs="refused") as server:
        proxy = start_proxy(server.ollama_url, add_logprobs=1)
        body = {"model": "m", "logprobs": True, "stream": True, "tools": TOOLS}
        through, direct = (
            requests.post(f"{url}/v1/chat/completions", json=body, timeout=5) for url in (proxy.url, server.ollama_url)
        )
        proxy.wait_until_over(1)
    assert through.status_code == 400
    assert through.content == direct.content
    assert proxy.value(m.PROXY_REQUESTS, result="refused") == 1
    assert proxy.value(m.PROXY_REFUSED_ADDITIONS) is None


def test_logprobs_that_the_client_asked_for_stay_and_are_read(start_proxy: StartProxy) -> None:
    with ModelServer([call("read_file", path="a"), call("read_file", path="a")]) as server:
        proxy = start_proxy(server.ollama_url, add_logprobs=5)
        body = {"model": "m", "logprobs": True, "top_logprobs": 2, "stream": True, "tools": TOOLS}
        through, direct = (
            requests.post(f"{url}/v1/chat/completions", json=body, timeout=5) for url in (proxy.url, server.ollama_url)
        )
        proxy.wait_until_over(1)
    assert b'"logprobs"' in through.content
    # The scripted server tells its usage always, so the event that the proxy asked for and took out is the one difference.
    assert through.content.count(b"data:") == direct.content.count(b"data:") - 1
    assert proxy.value(m.PROXY_TASK_CONFIDENCE, "_count") == 1


@pytest.mark.parametrize("fault", ["error_mid_stream", "cut", "hang_up", "http_500"])
def test_faults_of_the_model_server_are_counted_and_never_as_tokens(start_proxy: StartProxy, fault: str) -> None:
    with ModelServer([say("one two three four").with_(fault=fault)]) as server:
        proxy = start_proxy(server.ollama_url)
        try:
            status = requests.post(f"{proxy.url}/api/chat", json={"model": "m", "stream": True}, timeout=5).status_code
        except requests.exceptions.ChunkedEncodingError:
            status = 0
        proxy.wait_until_over(1)
    assert status == {"error_mid_stream": 200, "cut": 0, "hang_up": 502, "http_500": 500}[fault]
    assert proxy.value(m.PROXY_REQUESTS, result="refused" if fault == "http_500" else "broken") == 1
    assert proxy.value(m.PROXY_COMPLETION_TOKENS) is None
    assert proxy.value(m.PROXY_TASK_DURATION, "_count") is None


def test_requests_are_in_flight_while_they_are(start_proxy: StartProxy) -> None:
    with ModelServer([say("one two").with_(token_gap=0.5)]) as server:
        proxy = start_proxy(server.ollama_url)
        with requests.post(f"{proxy.url}/api/chat", json={"model": "m", "stream": True}, stream=True, timeout=5) as got:
            wait_for(lambda: proxy.value(m.PROXY_IN_FLIGHT, model="m") == 1)
            _ = got.content
        wait_for(lambda: proxy.value(m.PROXY_IN_FLIGHT, model="m") == 0)


def test_run_and_task_come_from_headers_as_well(start_proxy: StartProxy) -> None:
    with ModelServer([say("one")] * 2) as server:
        proxy = start_proxy(server.ollama_url)
        headers = {"X-Joulebench-Run": "r2", "X-Joulebench-Task": "sort a list"}
        requests.post(f"{proxy.url}/api/chat", json={"model": "m", "stream": True}, headers=headers, timeout=5)
        requests.post(f"{proxy.url}/api/chat", json={"model": "m", "stream": True}, timeout=5)
        proxy.wait_until_over(2)
    assert proxy.value(m.PROXY_REQUESTS, run_id="r2", task_id="sort a list") == 1
    assert proxy.value(m.PROXY_REQUESTS, run_id="", task_id="") == 1
