"""The proxy in front of a real llama.cpp with a real small model: same bytes, and the server's own counts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from joulebench import metrics as m
from joulebench.bench.embedded import EmbeddedModel
from tests.needs import need_model
from tests.unit.proxy.conftest import StartProxy, start_proxy

__all__ = ["start_proxy"]

pytestmark = pytest.mark.model

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Get the {name} of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    for name in ("weather", "population")
]


def worked(number: int, question: str, name: str, city: str) -> list[dict[str, object]]:
    """A question that was answered by a call: shown two of them, a small model does the same."""
    function = {"name": name, "arguments": json.dumps({"city": city})}
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": None, "tool_calls": [{"id": str(number), "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": str(number), "name": name, "content": "ok"},
    ]


EXAMPLES = [
    *worked(1, "How many people live in Oslo?", "population", "Oslo"),
    *worked(2, "What is the weather in Rome?", "weather", "Rome"),
    {"role": "user", "content": "What is the weather in Paris?"},
]
BASE = {"temperature": 0, "max_tokens": 40, "seed": 1, "repeat_penalty": 1.0, "cache_prompt": False}
ASKED = {
    "words": {**BASE, "messages": [{"role": "user", "content": "Count to five."}]},
    "tools": {**BASE, "messages": EXAMPLES, "tools": TOOLS},
}


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    need_model()
    with EmbeddedModel() as running:
        yield running.base_url.removesuffix("/v1")


def steady(reply: bytes) -> bytes:
    """Without what differs from one answer to the same question to the next: ids, times and, in timings, all but the counts."""
    text = re.sub(r'"id":"[^"]*"|"created":\d+|"[a-z_]+_(ms|second)":[\d.e-]+', "", reply.decode())
    return text.encode()


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("kind", ASKED)
def test_a_real_server_says_the_same_through_the_proxy_and_is_counted_exactly(
    model: str, start_proxy: StartProxy, kind: str, stream: bool
) -> None:
    proxy = start_proxy(model, add_logprobs=3)
    body = {"model": "smollm2", "stream": stream, **ASKED[kind]}
    direct = requests.post(f"{model}/v1/chat/completions", json=body, timeout=60)
    through = requests.post(f"{proxy.url}/run/r/task/t/v1/chat/completions", json=body, timeout=60)
    proxy.wait_until_over(1)
    assert through.status_code == direct.status_code == 200
    assert steady(through.content) == steady(direct.content)
    timings = timings_of(through.content)
    assert proxy.value(m.PROXY_COMPLETION_TOKENS) == timings["predicted_n"]
    assert proxy.value(m.PROXY_PROMPT_TOKENS) == timings["prompt_n"] + timings["cache_n"]
    assert proxy.value(m.PROXY_PREFILL, "_sum") == pytest.approx(timings["prompt_ms"] / 1000)
    assert proxy.value(m.PROXY_DECODE, "_sum") == pytest.approx(timings["predicted_ms"] / 1000)
    calls = len(re.findall(rb'"name":"(?:weather|population)"', through.content))
    if kind == "tools":
        assert calls == 1
        assert proxy.value(m.PROXY_TOOL_CALLS, outcome="ok") == calls
        # llama.cpp refuses tools with a stream and logprobs; without the stream every token has its row.
        assert proxy.value(m.PROXY_REFUSED_ADDITIONS) == (1 if stream else None)
        assert proxy.value(m.PROXY_SPANS, span_status="no_logprobs" if stream else "ok") == 1
    else:
        assert proxy.value(m.PROXY_TOOL_CALLS) is None
        ttft = proxy.value(m.PROXY_TASK_TTFT, "_sum")
        assert (ttft is not None and ttft >= timings["prompt_ms"] / 1000 * 0.9) if stream else ttft is None


RECORDED = json.loads((Path(__file__).parents[1] / "captures" / "endpoints" / "llamacpp.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("exchange", RECORDED["exchanges"], ids=lambda one: f"{one['name']}, stream {one['request']['stream']}")
def test_the_endpoints_beside_chat_say_the_same_through_the_proxy(
    model: str, start_proxy: StartProxy, exchange: dict[str, Any]
) -> None:
    """The requests of the recording, asked again."""
    proxy = start_proxy(model, add_logprobs=3)
    path, request = exchange["path"], exchange["request"]
    direct = requests.post(model + path, json=request, timeout=60)
    through = requests.post(f"{proxy.url}/run/r/task/t{path}", json=request, timeout=60)
    proxy.wait_until_over(1)
    assert through.status_code == direct.status_code == 200
    assert same(through.text) == same(direct.text)
    told = {name: [int(number) for number in re.findall(rf'"{name}":(\d+)', through.text)] for name in COUNTED}
    prompt = [*told["input_tokens"], *told["prompt_tokens"]][-1] + sum(told["cache_read_input_tokens"])
    assert proxy.value(m.PROXY_PROMPT_TOKENS) == prompt
    assert proxy.value(m.PROXY_COMPLETION_TOKENS) == [*told["output_tokens"], *told["completion_tokens"]][-1]
    assert proxy.value(m.PROXY_TOOL_CALLS, outcome="ok") == (1 if exchange["name"].endswith("call") else None)
    ttft, prefill = proxy.value(m.PROXY_TASK_TTFT, "_sum"), proxy.value(m.PROXY_PREFILL, "_sum")
    assert (ttft is not None) == request["stream"]
    assert ttft is None or prefill is None or ttft >= prefill * 0.9


COUNTED = ("input_tokens", "prompt_tokens", "cache_read_input_tokens", "output_tokens", "completion_tokens")


def same(reply: str) -> str:
    """Without ids, times and what the prefix cache held, which differ from one answer to the next."""
    return re.sub(
        r'"(?:id|item_id|call_id)":"[^"]*"|"(?:created|created_at|completed_at)":\d+|"timings":{[^}]*}'
        r'|"(?:cached_tokens|cache_read_input_tokens|input_tokens)":\d+',
        "",
        reply,
    )


def timings_of(reply: bytes) -> dict[str, float]:
    """llama.cpp's, from the last object that has them."""
    objects = [
        json.loads(line.removeprefix("data: ")) for line in reply.decode().splitlines() if line.startswith(("data: {", "{"))
    ]
    found: list[dict[str, float]] = [value["timings"] for value in objects if "timings" in value]
    assert len(found) == 1
    return found[0]
