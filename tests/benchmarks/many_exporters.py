"""One process that answers as many exporters would, with pages that a real exporter gave.

``python -m tests.benchmarks.many_exporters PAGES.json`` prints its port and serves ``/NUMBER/metrics``: for a request with
``name[]`` the next of the pages of the energy job, else the next of the full pages. Every path has its own place in the cycle.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from pathlib import Path


class Exporters(asyncio.Protocol):
    """Keeps connections open; requests have no body."""

    def __init__(self, pages: dict[bool, list[bytes]], asked: defaultdict[bytes, int]) -> None:
        self._pages = pages
        self._asked = asked
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while b"\r\n\r\n" in self._pending:
            head, _, self._pending = self._pending.partition(b"\r\n\r\n")
            target = head.split(b" ", 2)[1]
            pages = self._pages[b"name%5B%5D" in target or b"name[]" in target]
            self._asked[target] += 1
            self._transport.write(pages[self._asked[target] % len(pages)])


def _response(text: str) -> bytes:
    body = text.encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def serve(path: Path) -> None:
    recorded = json.loads(path.read_text())
    pages = {energy: [_response(text) for text in recorded[name]] for energy, name in ((True, "energy"), (False, "full"))}
    asked: defaultdict[bytes, int] = defaultdict(int)
    server = await asyncio.get_running_loop().create_server(lambda: Exporters(pages, asked), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
