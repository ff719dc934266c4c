"""Requests for either of Ollama's two doors: three past turns that were answered by a call, and a question.

Shown three of them a small model does the same; what it writes for each question is its own affair, and read off its answer.
"""

from __future__ import annotations

import json
from typing import Any

from tests.ollama.server import MODEL

Json = dict[str, Any]


def _tool(name: str, **arguments: str) -> Json:
    properties = {key: {"type": kind} for key, kind in arguments.items()}
    parameters = {"type": "object", "properties": properties, "required": list(arguments)}
    return {"type": "function", "function": {"name": name, "description": name.replace("_", " "), "parameters": parameters}}


TOOLS = [_tool("get_weather", city="string"), _tool("get_time", city="string"), _tool("add", a="number", b="number")]
DECLARED = [tool["function"]["name"] for tool in TOOLS]
SYSTEM = "Answer with one tool call."

WEATHER = "What is the weather in Paris?"
ADD = "Add 17 and 25."
TIME = "What time is it in Lisbon?"
DIVIDE = "Divide 9 by 3."
HAIKU = "Write a haiku."
BOTH = "What is the weather in Paris, and its population?"
"""Past turns of this one have two calls each, the second of a tool that is not offered."""
WORDS = "Count to five."


ONE_CALL: tuple[tuple[str, tuple[tuple[str, Json], ...]], ...] = (
    ("What is the weather in Rome?", (("get_weather", {"city": "Rome"}),)),
    ("Add 3 and 4.", (("add", {"a": 3, "b": 4}),)),
    ("What time is it in Oslo?", (("get_time", {"city": "Oslo"}),)),
)
TWO_CALLS: tuple[tuple[str, tuple[tuple[str, Json], ...]], ...] = tuple(
    (f"What is the weather in {city}, and its population?", (("get_weather", {"city": city}), ("population", {"city": city})))
    for city in ("Rome", "Oslo", "Madrid")
)


def chat(question: str, *, stream: bool = False, tools: bool = True, logprobs: bool = False, tokens: int = 60) -> Json:
    """For /api/chat."""
    body: Json = {"model": MODEL, "stream": stream, "options": {"temperature": 0, "seed": 1, "num_predict": tokens}}
    body["messages"] = _messages(question, openai=False) if tools else [{"role": "user", "content": question}]
    if tools:
        body["tools"] = TOOLS
    return body | ({"logprobs": True, "top_logprobs": 3} if logprobs else {})


def completion(question: str, *, stream: bool = False, tools: bool = True, logprobs: bool = False, tokens: int = 60) -> Json:
    """For /v1/chat/completions."""
    body: Json = {"model": MODEL, "stream": stream, "temperature": 0, "seed": 1, "max_tokens": tokens}
    body["messages"] = _messages(question, openai=True) if tools else [{"role": "user", "content": question}]
    if tools:
        body["tools"] = TOOLS
    return body | ({"logprobs": True, "top_logprobs": 3} if logprobs else {})


def _messages(question: str, *, openai: bool) -> list[Json]:
    messages: list[Json] = [{"role": "system", "content": SYSTEM}]
    for asked, calls in TWO_CALLS if question == BOTH else ONE_CALL:
        made = [_call(name, arguments, openai=openai) for name, arguments in calls]
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": "", "tool_calls": made}]
    return [*messages, {"role": "user", "content": question}]


def _call(name: str, arguments: Json, *, openai: bool) -> Json:
    if openai:
        return {"id": "call_0", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    return {"function": {"name": name, "arguments": arguments}}
