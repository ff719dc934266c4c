"""Reads a reply while it passes: cuts a stream into pieces, gives their JSON to the protocol's reader, and never fails.

What cannot be read is noted as the ``cause`` for which the reply was not, or not wholly, metered.
"""

from __future__ import annotations

import json
from typing import Protocol as Interface

from joulebench.parsing import Json
from joulebench.proxy.asked import Protocol
from joulebench.proxy.embedding_reply import embedding_reply
from joulebench.proxy.inflate import Inflater
from joulebench.proxy.messages_reply import MessagesReader
from joulebench.proxy.ollama_reply import OllamaReader
from joulebench.proxy.openai_reply import OpenAIReader
from joulebench.proxy.pieces import Cutter, Piece
from joulebench.proxy.reply import Reply
from joulebench.proxy.responses_reply import ResponsesReader

MAX_WHOLE_BYTES = 64 * 1024 * 1024
STREAMS = {"text/event-stream": True, "application/x-ndjson": False, "application/ndjson": False, "application/jsonl": False}
"""Media types of streams; True for server-sent events."""


class Reader(Interface):
    reply: Reply

    def done(self) -> None: ...

    def piece(self, value: Json, now: float) -> None: ...

    def whole(self, value: Json) -> None: ...


def reader_of(protocol: Protocol) -> Reader:
    match protocol:
        case Protocol.RESPONSES:
            return ResponsesReader()
        case Protocol.MESSAGES:
            return MessagesReader()
        case _:
            return OpenAIReader() if protocol.is_openai else OllamaReader()


class Meter:
    """``content_type`` and ``coding`` are headers of the reply. ``cause`` is one of ``metrics.PROXY_UNREAD_CAUSES``."""

    def __init__(self, protocol: Protocol, content_type: str, coding: str) -> None:
        self._protocol = protocol
        self._reader = reader_of(protocol)
        media = content_type.partition(";")[0].strip().lower()
        self.streamed = media in STREAMS
        self.events = STREAMS.get(media, False)
        self._cutter = Cutter(self.events)
        self._inflater = Inflater(coding)
        self._whole: list[bytes] = []
        self._size = 0
        self._too_large = False

    @property
    def reply(self) -> Reply:
        return self._reader.reply

    @property
    def cause(self) -> str | None:
        if not self._inflater.readable:
            return "encoding"
        if self._too_large:
            return "too_large"
        return "not_json" if self.reply.unread else None

    @property
    def ended_well(self) -> bool:
        """Whether the reply came to its end without an error in it; one that could not be read has not shown any."""
        return not self.reply.failed and (self.reply.complete or self.cause is not None)

    def feed(self, data: bytes, now: float) -> None:
        """``now``: when the bytes arrived, by the monotonic clock."""
        data = self._inflater.feed(data)
        if self._too_large:
            return
        if not self.streamed:
            self._size += len(data)
            self._too_large = self._size > MAX_WHOLE_BYTES
            self._whole.append(data)
            return
        for piece in self._cutter.feed(data):
            self.piece(piece, now)
        self._too_large = self._cutter.overflowed

    def give_up(self) -> None:
        """The reply has grown beyond what is read."""
        self._too_large = True

    def end(self, now: float) -> None:
        """The reply is over, complete or not."""
        if self.streamed:
            self.piece(self._cutter.last(), now)
        elif not self._too_large:
            data = b"".join(self._whole)
            if self._protocol is Protocol.EMBEDDING:
                self._reader.reply = embedding_reply(data)
            elif (value := self.value(data)) is not None:
                self._reader.whole(value)
        self._whole.clear()

    def piece(self, piece: Piece, now: float) -> Json | None:
        """One piece of a stream; its JSON, if that is what it holds."""
        if not piece.data:
            return None
        if piece.data == b"[DONE]":
            self._reader.done()
            return None
        if piece.event == b"error":
            self.reply.failed = True
        value = self.value(piece.data)
        if value is not None:
            self._reader.piece(value, now)
        return value

    def value(self, data: bytes) -> Json | None:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            self.reply.unread = True
            return None
        return value
