"""Processes that listen on a port and do nothing else: what an exporter sees of a model server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_LISTENS = (
    "import socket, sys; s = socket.create_server(('127.0.0.1', {port})); print(s.getsockname()[1], flush=True); sys.stdin.read()"
)


@contextmanager
def listening(port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """(a process that listens on the port, by default a free one; its address)."""
    command = [sys.executable, "-c", _LISTENS.format(port=port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()
