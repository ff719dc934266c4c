"""Reads one reply from the bytes of an HTTP response while they arrive: content coding, events, JSON, ``Reply``. Never raises.

What cannot be read is named by ``Reply.problem``. Sizes are bounded: a compressed reply may not expand without limit.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

from joulebench.llm.events import DONE, EventSplitter, StreamEvent, parse_object
from joulebench.llm.readers import Api, ReplyReader, read_embedding, reader_for
from joulebench.llm.reply import ENCODING, NOT_JSON, TOO_LARGE, Reply
from joulebench.parsing import Json

MAX_REPLY_BYTES = 64 * 1024 * 1024
"""Bytes of a reply that does not come as events, decompressed."""
MAX_INFLATED_AT_ONCE = 4 * 1024 * 1024
"""Bytes that one piece of a compressed body may become; about 10 ms of work."""
STREAM_TYPES = ("text/event-stream", "application/x-ndjson", "application/ndjson", "application/jsonl")


class Inflater:
    """Decompresses a gzip or deflate body with a limit. ``problem`` is set where that fails, and nothing comes out after it."""

    def __init__(self, coding: str, limit: int = MAX_REPLY_BYTES) -> None:
        name = coding.strip().lower()
        self.problem: str | None = None if name in ("", "identity", "gzip", "x-gzip", "deflate") else ENCODING
        self._left = limit
        self._decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32) if name not in ("", "identity") else None

    @property
    def is_identity(self) -> bool:
        return self._decompressor is None

    @property
    def is_at_end(self) -> bool:
        """Whether the compressed body is complete; always so for one that is not compressed."""
        return self._decompressor is None or self._decompressor.eof

    def feed(self, data: bytes) -> bytes:
        if self.problem is not None:
            return b""
        if self._decompressor is None:
            return data
        try:
            inflated = self._decompressor.decompress(data, MAX_INFLATED_AT_ONCE)
        except zlib.error:
            self.problem = ENCODING
            return b""
        self._left -= len(inflated)
        if self._decompressor.unconsumed_tail or self._left < 0:
            self.problem = TOO_LARGE
        elif self._decompressor.unused_data.strip(b"\x00"):
            # A second member: legal, not sent by model servers, and as many of them as bytes would cost much to read.
            self.problem = ENCODING
        if self.problem is not None:
            self._decompressor = zlib.decompressobj()
            return b""
        return inflated


class ReplyDecoder:
    """``content_type`` and ``coding`` are headers of the response; ``stream``: the request asked for a stream, whatever the
    response calls itself. ``streamed``: the reply is read as events."""

    def __init__(
        self,
        api: Api,
        content_type: str,
        coding: str = "",
        *,
        stream: bool = False,
        has_no_echo: bool = False,
        on_first_token: Callable[[], None] | None = None,
    ) -> None:
        media_type = content_type.partition(";")[0].strip().lower()
        self.streamed = api is not Api.EMBEDDING and (stream or media_type in STREAM_TYPES)
        self._api = api
        self._reader: ReplyReader = reader_for(api, on_first_token, has_no_echo=has_no_echo)
        self._inflater = Inflater(coding)
        self._splitter = EventSplitter()
        self._kept: list[bytes] = []
        """The body so far: of a reply that is not streamed, or while no event of it could be read."""
        self._kept_bytes = 0
        self._objects = 0
        self._last_arrival = 0.0
        self._reply: Reply | None = None

    @property
    def is_compressed(self) -> bool:
        return not self._inflater.is_identity

    @property
    def inflate_problem(self) -> str | None:
        """Why the content coding of the reply cannot be read, or no further."""
        return self._inflater.problem

    @property
    def is_inflated(self) -> bool:
        """Whether the content coding has come to its end without a problem."""
        return self._inflater.problem is None and self._inflater.is_at_end

    @property
    def is_between_events(self) -> bool:
        """Whether the next byte is the first of an event, in a stream without a content coding."""
        return self.streamed and self._inflater.is_identity and self._splitter.is_between_events

    def inflate(self, data: bytes) -> bytes:
        """Returns ``data`` without the reply's content coding, for ``split`` and ``read_whole``."""
        return self._inflater.feed(data)

    @property
    def has_failed(self) -> bool:
        """Whether the server has reported an error before any output of the model."""
        return self._reader.reply.error is not None and not self._reader.has_output

    @property
    def ended_well(self) -> bool:
        """Whether the reply came to its end without an error; a reply that could not be read has shown none."""
        reply = self.finish()
        return reply.error is None and (reply.complete or reply.problem in (NOT_JSON, TOO_LARGE, ENCODING))

    def feed(self, data: bytes, now: float) -> None:
        """Reads bytes that arrived at ``now`` by the monotonic clock."""
        data = self._inflater.feed(data)
        if not self.streamed:
            self._keep(data)
            return
        for event in self.split(data):
            self.read_event(event, now)

    def split(self, data: bytes) -> list[StreamEvent]:
        """Returns the events that ``data``, uncompressed, completes; each is to be given to ``read_event``."""
        if self._objects == 0:
            self._keep(data)
        return self._splitter.feed(data)

    def split_rest(self) -> list[StreamEvent]:
        """Returns the events that the end of the stream completes."""
        return self._splitter.finish()

    def read_event(self, event: StreamEvent, now: float) -> Json | None:
        """Reads one event. Returns its JSON object, if its payload is one."""
        self._last_arrival = now
        if not event.data:
            return None
        if event.data == DONE:
            self._reader.done()
            return None
        value = parse_object(event.data)
        if value is None:
            self._reader.reply.note_problem(NOT_JSON, repr(event.data[:120]))
            if event.name == b"error":
                self._reader.fail(event.data[:300].decode("utf-8", "replace"))
            return None
        if self._objects == 0:
            self._kept.clear()
        self._objects += 1
        if event.name == b"error":
            self._reader.fail(event.data[:300].decode("utf-8", "replace"))
        self._reader.read(value, now)
        return value

    def read_whole(self, data: bytes) -> Json | None:
        """Reads a complete, uncompressed reply that is not streamed. Returns its JSON object, if it is one."""
        self._keep(data)
        value = None if self._api is Api.EMBEDDING else parse_object(data)
        self.finish(value)
        return value

    def finish(self, value: Json | None = None) -> Reply:
        """Returns the reply as far as it came. ``value``: the reply's JSON, where the caller has parsed it."""
        if self._reply is not None:
            return self._reply
        if self.streamed:
            for event in self.split_rest():
                self.read_event(event, self._last_arrival)
        reply = self._reader.reply
        if self._inflater.problem is not None:
            reply.note_problem(self._inflater.problem)
        if self._splitter.overflowed or self._kept_bytes > MAX_REPLY_BYTES:
            reply.problem = TOO_LARGE
        elif self._objects == 0 and reply.problem not in (ENCODING, TOO_LARGE):
            self._read_body(value)
        self._kept.clear()
        self._reply = self._reader.reply if self._api is Api.EMBEDDING else self._reader.finish()
        return self._reply

    def _read_body(self, value: Json | None) -> None:
        """Reads a reply that did not come as events, also one under a stream's media type."""
        body = b"".join(self._kept)
        if self._api is Api.EMBEDDING:
            self._reader.reply = read_embedding(body)
            return
        value = value if value is not None else parse_object(body.removeprefix(b"\xef\xbb\xbf"))
        if value is not None:
            self._reader.reply.problem = None
            self._reader.read(value, None)
        elif body.strip() and (not self.streamed or self._reader.reply.problem is None) and not self._reader.reply.complete:
            self._reader.reply.note_problem(NOT_JSON, repr(body[:120]))

    def _keep(self, data: bytes) -> None:
        self._kept_bytes += len(data)
        if self._kept_bytes <= MAX_REPLY_BYTES:
            self._kept.append(data)
        else:
            self._kept.clear()
