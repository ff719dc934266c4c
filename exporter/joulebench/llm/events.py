"""Splits a streamed reply into its events while the bytes arrive: server-sent events, or one JSON object a line (NDJSON).

Which of the two a stream is follows from its lines, not from its media type, since servers mislabel both. Accepted are LF, CRLF
and CR line ends, a byte-order mark, comments, ``id``, ``retry`` and ``event`` fields, several ``data`` lines in an event, and
events with no blank line between them. Every byte belongs to exactly one event, so the joined ``raw`` of all events is the
stream. The work is linear in the number of bytes, however they are cut.

Source: HTML Standard, 9.2 Server-sent events.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""Its JSON is parsed in one go, while a proxy passes nothing else on."""
DONE = b"[DONE]"

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class StreamEvent(NamedTuple):
    """``raw``: the bytes as they came. ``data``: the payload, empty for comments and blank lines. ``name``: the event's type."""

    raw: bytes
    data: bytes = b""
    name: bytes = b""


class EventSplitter:
    """``overflowed``: a line or an event exceeded ``limit`` bytes; the stream is passed on from there without payloads."""

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self.overflowed = False
        self._limit = limit
        self._line: list[bytes] = []
        """Parts of the last line, whose end has not arrived."""
        self._raw: list[bytes] = []
        self._data: list[bytes] = []
        self._name = b""
        self._size = 0
        """Bytes in ``_line`` and ``_raw``."""
        self._is_first_line = True
        self._ends_with_cr = False
        """Whether lines of this stream were seen to end with CR alone."""

    @property
    def is_between_events(self) -> bool:
        """Whether every byte so far belongs to a complete event."""
        return not (self._line or self._raw or self.overflowed)

    def feed(self, data: bytes) -> list[StreamEvent]:
        """Returns the events that ``data`` completes."""
        if self.overflowed:
            return [StreamEvent(data)] if data else []
        lines = self._complete_lines(data)
        events = self._events(lines) if lines else []
        if self._size > self._limit:
            self.overflowed = True
            events.append(StreamEvent(self._take_all()))
        return events

    def finish(self) -> list[StreamEvent]:
        """Returns what is left at the end of the stream: servers may omit the last line end and the last blank line."""
        line = b"".join(self._line)
        self._line.clear()
        events = self._events([line]) if line else []
        if self._raw:
            events.append(self._take_event())
        return events

    def _complete_lines(self, data: bytes) -> list[bytes]:
        """Returns the lines that ``data`` completes, with their ends, and keeps the rest."""
        if self._line and self._line[-1].endswith(b"\r"):
            # Kept until now, since an LF may follow.
            data = self._line.pop() + data
        if b"\r" not in data:
            lines = data.splitlines(keepends=True) if b"\n" in data else [data]
            # bytes.splitlines splits at LF, CR and CRLF only.
            rest = b"" if not lines or lines[-1].endswith(b"\n") else lines.pop()
        else:
            lines, rest = self._cut_at_any_end(data)
        if lines and self._line:
            lines[0] = b"".join((*self._line, lines[0]))
            self._line.clear()
        if rest:
            self._line.append(rest)
        self._size = len(rest) if lines else self._size + len(data)
        self._size += sum(map(len, self._raw)) if lines else 0
        return lines

    def _cut_at_any_end(self, data: bytes) -> tuple[list[bytes], bytes]:
        lines = []
        start = 0
        for match in _LINE_END.finditer(data):
            is_cr = match.group() == b"\r"
            if is_cr and match.end() < len(data):
                self._ends_with_cr = True
            if is_cr and match.end() == len(data) and not self._ends_with_cr:
                break
            lines.append(data[start : match.end()])
            start = match.end()
        return lines, data[start:]

    def _events(self, lines: Sequence[bytes]) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        blank: list[bytes] = []
        """Blank lines that end no event, given out together: a stream may hold little else."""
        for number, line in enumerate(lines):
            following = lines[number + 1] if number + 1 < len(lines) else None
            content = line.rstrip(b"\r\n")
            if self._is_first_line:
                self._is_first_line = False
                content = content.removeprefix(_BYTE_ORDER_MARK)
            if content.startswith(b"{"):
                if blank:
                    events.append(StreamEvent(b"".join(blank)))
                    blank.clear()
                if self._raw:
                    events.append(self._take_event())
                events.append(StreamEvent(line, content.strip()))
                continue
            if not content and not self._raw:
                blank.append(line)
                continue
            if blank:
                events.append(StreamEvent(b"".join(blank)))
                blank.clear()
            self._raw.append(line)
            if not content:
                events.append(self._take_event())
                continue
            self._read_field(content)
            if self._is_event_complete(content, following):
                events.append(self._take_event())
        if blank:
            events.append(StreamEvent(b"".join(blank)))
        return events

    def _read_field(self, content: bytes) -> None:
        field, _, value = content.partition(b":")
        if field == b"data":
            self._data.append(value.strip())
        elif field == b"event":
            self._name = value.strip()
        elif field == b"error":
            # llama.cpp before 2025 wrote errors as a field of their own.
            self._name = b"error"
            self._data.append(value.strip())

    def _is_event_complete(self, content: bytes, following: bytes | None) -> bool:
        """Returns whether the event ends here although no blank line has come: a comment alone, or a payload that is whole JSON
        where the next line is unknown or begins the next event."""
        if not self._data:
            return content.startswith(b":") and len(self._raw) == 1
        if len(self._data) > 1 or (following is not None and not following.startswith((b"data:", b"{"))):
            return False
        payload = self._data[0]
        return payload == DONE or (payload.startswith(b"{") and payload.endswith(b"}") and parse_object(payload) is not None)

    def _take_event(self) -> StreamEvent:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        event = StreamEvent(self._raw[0] if len(self._raw) == 1 else b"".join(self._raw), data, self._name)
        self._raw.clear()
        self._data = []
        self._name = b""
        return event

    def _take_all(self) -> bytes:
        raw = b"".join((*self._raw, *self._line))
        self._raw.clear()
        self._line.clear()
        self._data = []
        return raw


def parse_object(data: bytes) -> dict[str, object] | None:
    """Returns the JSON object in ``data``; None where it is anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
