"""A few streamed requests of one client library, and what the client itself saw of each, as JSON. It knows nothing of Joulebench.

python own_report.py LIBRARY BASE_URL MODEL
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

QUESTIONS = ("Say one word.", "Count to three.", "Name a color.", "Say hello.", "Name a city.", "Count to five.")
MAX_TOKENS = 16

Usage = tuple[int, int]
Stream = Callable[[str], Iterator[tuple[bool, Usage | None]]]
"""Sends a question; for each chunk whether it has text, and the tokens of the prompt and the answer where it has them."""


def openai_stream(base_url: str, model: str) -> Stream:
    from openai import OpenAI

    client = OpenAI(base_url=base_url, api_key="none", max_retries=0)

    def ask(question: str) -> Iterator[tuple[bool, Usage | None]]:
        messages: Any = [{"role": "user", "content": question}]
        options: Any = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": MAX_TOKENS}
        for chunk in client.chat.completions.create(model=model, messages=messages, **options):
            usage = chunk.usage
            text = bool(chunk.choices and chunk.choices[0].delta.content)
            yield text, None if usage is None else (usage.prompt_tokens, usage.completion_tokens)

    return ask


def litellm_stream(base_url: str, model: str) -> Stream:
    import litellm

    def ask(question: str) -> Iterator[tuple[bool, Usage | None]]:
        messages: Any = [{"role": "user", "content": question}]
        options: Any = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": MAX_TOKENS}
        for chunk in litellm.completion(f"hosted_vllm/{model}", messages, api_base=base_url, api_key="none", **options):
            usage = getattr(chunk, "usage", None)
            text = bool(chunk.choices and chunk.choices[0].delta.content)
            yield text, None if usage is None else (usage.prompt_tokens, usage.completion_tokens)

    return ask


def langchain_stream(base_url: str, model: str) -> Stream:
    from langchain_openai import ChatOpenAI

    client = ChatOpenAI(model=model, base_url=base_url, api_key="none", max_retries=0, stream_usage=True, max_tokens=MAX_TOKENS)

    def ask(question: str) -> Iterator[tuple[bool, Usage | None]]:
        for chunk in client.stream(question):
            usage = chunk.usage_metadata
            yield bool(chunk.content), None if usage is None else (usage["input_tokens"], usage["output_tokens"])

    return ask


LIBRARIES = {"openai": openai_stream, "litellm": litellm_stream, "langchain-openai": langchain_stream}


def measure(ask: Stream, question: str) -> dict[str, float]:
    began = time.perf_counter()
    arrivals, usage = [], (0, 0)
    for has_text, counts in ask(question):
        if has_text:
            arrivals.append(time.perf_counter())
        usage = counts or usage
    ended = time.perf_counter()
    return {
        "prompt_tokens": usage[0],
        "completion_tokens": usage[1],
        "ttft": arrivals[0] - began,
        "duration": ended - began,
    }


def inspect_report(base_url: str, model: str) -> list[dict[str, float]]:
    """Inspect's own log: tokens and the time of each call; it does not stream."""
    import os
    import tempfile

    from inspect_ai import Task
    from inspect_ai import eval as evaluate
    from inspect_ai.dataset import Sample
    from inspect_ai.model import GenerateConfig

    os.environ.update(SERVER_BASE_URL=base_url, SERVER_API_KEY="none")
    task = Task(dataset=[Sample(input=question) for question in QUESTIONS], config=GenerateConfig(max_tokens=MAX_TOKENS))
    with tempfile.TemporaryDirectory() as logs:
        (log,) = evaluate(task, model=f"openai-api/server/{model}", display="none", log_dir=logs, max_samples=1)
        calls = [event for sample in log.samples for event in sample.events if event.event == "model"]
    return [
        {
            "prompt_tokens": call.output.usage.input_tokens + (call.output.usage.input_tokens_cache_read or 0),
            "completion_tokens": call.output.usage.output_tokens,
            "duration": call.output.time,
        }
        for call in calls
    ]


if __name__ == "__main__":
    library, base_url, model = sys.argv[1:]
    if library == "inspect-ai":
        report = inspect_report(base_url, model)
    else:
        stream = LIBRARIES[library](base_url, model)
        report = [measure(stream, question) for question in QUESTIONS]
    json.dump(report, sys.stdout)
