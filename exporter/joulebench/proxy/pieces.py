"""A streamed reply cut into its pieces while its bytes arrive: server-sent events, or lines of JSON (Ollama).

Every byte belongs to exactly one piece, so the pieces joined are the reply again.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_PIECE_BYTES = 16 * 1024 * 1024

_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_LINE_END = re.compile(rb"\n")


class Piece(NamedTuple):
    """``raw``: as it came, with what ends it. ``data``: its JSON, empty for a comment. ``event``: the name that it was given."""

    raw: bytes
    data: bytes
    event: bytes


class Cutter:
    """``overflowed``: a piece outgrew ``limit`` bytes; what came since is in ``rest`` uncut."""

    def __init__(self, events: bool, limit: int = MAX_PIECE_BYTES) -> None:
        self._events = events
        self._ending = _BLANK_LINE if events else _LINE_END
        self._limit = limit
        self._pending = b""
        self.overflowed = False

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that ``data`` completes."""
        pending = self._pending + data if self._pending else data
        pieces = []
        start = 0
        # An ending that began in the bytes before is found again from there.
        while match := self._ending.search(pending, start):
            pieces.append(self._piece(pending[start : match.end()]))
            start = match.end()
        self._pending = pending[start:] if start else pending
        self.overflowed = self.overflowed or len(self._pending) > self._limit
        return pieces

    def rest(self) -> bytes:
        """What is not a whole piece."""
        rest, self._pending = self._pending, b""
        return rest

    def last(self) -> Piece:
        """What is left at the end of the reply as a piece: servers may leave the last ending out."""
        return self._piece(self.rest())

    def _piece(self, raw: bytes) -> Piece:
        if not self._events:
            return Piece(raw, raw.strip(), b"")
        data: list[bytes] = []
        event = b""
        for line in raw.splitlines():
            if line.startswith(b"data:"):
                data.append(line[5:].strip())
            elif line.startswith(b"event:"):
                event = line[6:].strip()
            elif line.startswith(b"error:"):
                # llama.cpp before 2025 wrote an error as a field of its own.
                event = b"error"
                data.append(line[6:].strip())
        return Piece(raw, data[0] if len(data) == 1 else b"\n".join(data), event)
