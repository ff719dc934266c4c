"""A model server whose replies are an attack where the model's name says so: ``python -m tests.hostile.hostile_upstream``.

Prints its URL and serves until standard input closes. A process of its own, so that the attacker slows no bystander's reply.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterable, Iterator

from tests.fakes.raw_upstream import Part, RawRequest, RawUpstream, chunked, whole

MEBIBYTE = 1024 * 1024
REPLY = (
    b'{"choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2}}'
)
ARGUMENTS: dict[str, object] = {"x": "a" * 40 + "!", "x" * 40 + "!": 1}


def gzip_bomb(size: int = 1024 * MEBIBYTE) -> bytes:
    """Returns a gzip body of ``size`` spaces after the begin of a JSON object."""
    packer = zlib.compressobj(9, wbits=31)
    block = b" " * MEBIBYTE
    parts = [packer.compress(b'{"model":"m","x":')]
    parts += [packer.compress(block) for _ in range(size // MEBIBYTE)]
    return b"".join([*parts, packer.flush()])


def call_reply(arguments: object) -> bytes:
    function = {"name": "f", "arguments": json.dumps(arguments)}
    message = {"tool_calls": [{"id": "1", "type": "function", "function": function}]}
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    return json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": usage}).encode()


def endless_line() -> Iterator[Part]:
    yield b"data: {"
    for _ in range(5000):
        yield b"x" * 1000


class HostileAnswers:
    def __init__(self) -> None:
        self._bomb = gzip_bomb()

    def answer(self, request: RawRequest) -> Iterable[Part]:
        if b'"gzip bomb"' in request.body:
            return whole(self._bomb, more="Content-Encoding: gzip\r\n")
        if b'"tool call"' in request.body:
            return whole(call_reply(ARGUMENTS))
        if b'"endless line"' in request.body:
            return chunked(endless_line())
        if b'"data lines"' in request.body:
            return chunked([b"data: {\n" * 2000] * 50)
        if b'"blank lines"' in request.body:
            return chunked([b"\n\r" * 20_000, b"data:\n\n" * 20_000])
        return whole(REPLY)


def main() -> None:
    with RawUpstream(HostileAnswers().answer) as upstream:
        print(upstream.url, flush=True)  # noqa: T201
        sys.stdin.read()


if __name__ == "__main__":
    main()
