"""A model server that costs next to nothing, as a process: ``python -m tests.benchmarks.proxy_upstream``; prints its port.

What it says follows from the headers of the request alone, so that the same request always gets the same bytes:

    X-Number   seed of the words        X-Chunks   tokens of the reply        X-Gap   seconds between two of them
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Iterator

WORDS = ("a", "the", "grün", "\n\n", "{", '"x": 1', "tool", "data: ", "end", '\\"logprobs\\":')


async def serve() -> None:
    server = await asyncio.start_server(_connection, "127.0.0.1", 0, limit=1 << 20)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    # The parent holds the other end of standard input.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
            await _answer(writer, headers, body, native=head.startswith("POST /api/chat"))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _answer(writer: asyncio.StreamWriter, headers: dict[str, str], body: dict[str, object], native: bool) -> None:
    gap = float(headers.get("x-gap", 0))
    pieces = _pieces(int(headers["x-number"]), int(headers["x-chunks"]), body, native)
    if not body.get("stream"):
        whole = b"".join(pieces)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(whole), whole))
        await writer.drain()
        return
    kind = b"application/x-ndjson" if native else b"text/event-stream"
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n" % kind)
    for piece in pieces:
        writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if gap:
            await asyncio.sleep(gap)
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()


def _pieces(number: int, chunks: int, body: dict[str, object], native: bool) -> Iterator[bytes]:
    """As llama.cpp (``/v1``) and Ollama (``/api/chat``) write them: rows and usage only where they are asked for."""
    chance = random.Random(number)
    words = [chance.choice(WORDS) for _ in range(chunks)]
    asked = body.get("logprobs") is True
    stream = body.get("stream") is True
    if native:
        counts = {
            "done": True,
            "prompt_eval_count": 11,
            "eval_count": chunks,
            "eval_duration": 10**9,
            "total_duration": 2 * 10**9,
        }
        for word in words if stream else ():
            more = {"logprobs": [_row(word)]} if asked else {}
            yield _line({"model": "m", "message": {"role": "assistant", "content": word}, "done": False, **more})
        whole: dict[str, object] = {"message": {"role": "assistant", "content": "" if stream else "".join(words)}, **counts}
        yield _line({"model": "m", **whole, **({"logprobs": [*map(_row, words)]} if asked and not stream else {})})
        return
    usage = {"usage": {"prompt_tokens": 11, "completion_tokens": chunks}}
    timings = {"timings": {"cache_n": 1, "prompt_n": 10, "prompt_ms": 5.0, "predicted_n": chunks, "predicted_ms": 1000.0}}
    if not stream:
        given = {"logprobs": {"content": [*map(_row, words)]}} if asked else {}
        choice = {"index": 0, "message": {"role": "assistant", "content": "".join(words)}, **given, "finish_reason": "stop"}
        yield _text({"choices": [choice], "model": "m", **usage, **timings}).encode()
        return
    for word in words:
        given = {"logprobs": {"content": [_row(word)]}} if asked else {}
        yield _event({"choices": [{"index": 0, "delta": {"content": word}, **given, "finish_reason": None}], "model": "m"})
    options = body.get("stream_options")
    counted = isinstance(options, dict) and options.get("include_usage") is True
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "model": "m"}
    yield _event(end if counted else {**end, **timings})
    if counted:
        yield _event({"choices": [], "model": "m", **usage, **timings})
    yield b"data: [DONE]\n\n"


def _row(word: str) -> dict[str, object]:
    return {"token": word, "logprob": -0.1, "top_logprobs": [{"token": word, "logprob": -0.1}]}


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _event(value: object) -> bytes:
    return f"data: {_text(value)}\n\n".encode()


def _line(value: object) -> bytes:
    return f"{_text(value)}\n".encode()


if __name__ == "__main__":
    asyncio.run(serve())
