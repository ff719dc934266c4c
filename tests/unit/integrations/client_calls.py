"""A benchmark that knows nothing of Joulebench: every kind of call of one client, each with a line of what came of it.

python -m tests.unit.integrations.client_calls CLIENT URL
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any, cast

MODEL = "scripted:1b"
TOOLS: list[Any] = [{"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}]
ERROR = [{"role": "user", "content": "fail"}]
MESSAGES = [{"role": "user", "content": "say"}]
TOOL = [{"role": "user", "content": "tool"}]
STOP_AFTER = 2


def show(name: str, call: Callable[[], object]) -> None:
    try:
        value = call()
    except Exception as error:
        print(name, type(error).__name__, str(error)[:60].replace("\n", " "))
    else:
        print(name, type(value).__name__, describe(value))


def describe(value: object) -> str:
    if hasattr(value, "model_dump"):
        content = value.model_dump()
        return json.dumps({name: content.get(name) for name in ("usage", "eval_count", "model")}, default=str)
    return str(value)


def consume(stream: Iterator[object], stop_after: int | None = None) -> str:
    kind = type(stream).__name__
    chunks = []
    for chunk in stream:
        chunks.append(type(chunk).__name__)
        if len(chunks) == stop_after:
            break
    if stop_after is not None and hasattr(stream, "close"):
        stream.close()
    return f"{kind} of {len(chunks)} {chunks[0]}"


async def consume_async(stream: AsyncIterator[object]) -> str:
    chunks = [type(chunk).__name__ async for chunk in stream]
    return f"{type(stream).__name__} of {len(chunks)} {chunks[0]}"


def run(call: Awaitable[object]) -> object:
    async def waited() -> object:
        return await call

    return asyncio.run(waited())


def openai_calls(url: str) -> None:
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    create = client.chat.completions.create
    raw = client.chat.completions.with_raw_response.create
    usage: Any = {"stream_options": {"include_usage": True}}
    ask: Any = {"model": MODEL, "messages": MESSAGES}
    show("whole", lambda: create(**ask))
    show("tool", lambda: create(model=MODEL, messages=TOOL, tools=TOOLS, logprobs=True))  # type: ignore[arg-type]
    show("streamed", lambda: consume(create(**ask, stream=True, **usage)))
    show("stopped early", lambda: consume(create(**ask, stream=True, **usage), STOP_AFTER))
    show("never read", lambda: create(**ask, stream=True, **usage).close())
    show("raw", lambda: raw(**ask).parse())
    show("raw streamed", lambda: consume(raw(**ask, stream=True, **usage).parse()))
    show("parse", lambda: client.chat.completions.parse(**ask))

    def events() -> str:
        with client.chat.completions.stream(**ask, **usage) as stream:
            return str([event.type for event in stream][-1])

    show("events", events)
    show("refused", lambda: create(model=MODEL, messages=ERROR))  # type: ignore[arg-type]
    show("bad argument", lambda: create(model=MODEL))  # type: ignore[call-overload]
    show("models", lambda: [model.id for model in client.models.list()])

    async def in_a_loop() -> object:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as later:
            whole = await later.chat.completions.create(**ask)
            streamed = await consume_async(await later.chat.completions.create(**ask, stream=True, **usage))
            raw_answer = await later.chat.completions.with_raw_response.create(**ask)
            return type(whole).__name__, streamed, type(raw_answer.parse()).__name__

    show("async", lambda: run(in_a_loop()))


def ollama_calls(url: str) -> None:
    import ollama
    from ollama import chat

    client = ollama.Client(url)
    ask: Any = {"model": MODEL, "messages": MESSAGES}
    show("whole", lambda: client.chat(**ask))
    show("tool", lambda: client.chat(MODEL, TOOL, tools=TOOLS, logprobs=True))
    show("streamed", lambda: consume(client.chat(**ask, stream=True)))
    show("stopped early", lambda: consume(client.chat(**ask, stream=True), STOP_AFTER))
    show("never read", lambda: cast("Generator[Any]", client.chat(**ask, stream=True)).close())
    show("function", lambda: chat(**ask))
    show("refused", lambda: client.chat(MODEL, ERROR))
    show("refused in a stream", lambda: consume(client.chat(MODEL, ERROR, stream=True)))
    show("models", lambda: len(client.list().models))

    async def in_a_loop() -> object:
        later = ollama.AsyncClient(url)
        whole = await later.chat(**ask)
        streamed = await consume_async(await later.chat(**ask, stream=True))
        await later._client.aclose()
        return type(whole).__name__, streamed

    show("async", lambda: run(in_a_loop()))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        print("forked", pool.apply(_in_a_fork, (url,)))
        pool.close()
        pool.join()


def _in_a_fork(url: str) -> str:
    import ollama

    return type(ollama.Client(url).chat(MODEL, MESSAGES)).__name__


def litellm_calls(url: str) -> None:
    import litellm

    litellm.suppress_debug_info = True
    for provider, base in (("hosted_vllm", f"{url}/v1"), ("openai", f"{url}/v1"), ("ollama_chat", url)):
        ask: Any = {"model": f"{provider}/{MODEL}", "messages": MESSAGES, "api_base": base, "api_key": "none", "max_retries": 0}
        show(f"{provider} whole", lambda ask=ask: litellm.completion(**ask))  # type: ignore[misc]
        streamed: Any = {**ask, "stream": True, "stream_options": {"include_usage": True}}
        show(f"{provider} streamed", lambda ask=streamed: consume(litellm.completion(**ask)))  # type: ignore[misc]
        refused = {**ask, "messages": ERROR}
        show(f"{provider} refused", lambda ask=refused: litellm.completion(**ask))  # type: ignore[misc]

        async def in_a_loop(ask: Any = ask, streamed: Any = streamed) -> object:
            whole = await litellm.acompletion(**ask)
            return type(whole).__name__, await consume_async(await litellm.acompletion(**streamed))

        show(f"{provider} async", lambda: run(in_a_loop()))


if __name__ == "__main__":
    {"openai": openai_calls, "ollama": ollama_calls, "litellm": litellm_calls}[sys.argv[1]](sys.argv[2])
