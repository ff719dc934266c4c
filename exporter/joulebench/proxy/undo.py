"""Takes what the proxy had asked for out of the reply again, so that the client gets the bytes of its own request.

Logprobs go out of every piece, and a piece that was sent for them alone goes as a whole. The usage event of a stream goes; what
llama.cpp puts there (``timings``) goes back to the event before, where it would have been. Everything else stays byte by byte.
"""

from __future__ import annotations

from typing import Any

from joulebench.parsing import Json, items, members
from joulebench.proxy.additions import Added
from joulebench.proxy.asked import Protocol
from joulebench.proxy.meter import Meter
from joulebench.proxy.pieces import Cutter, Piece
from joulebench.proxy.shortcut import without_logprobs
from joulebench.proxy.surgery import Path, member_text, with_members, without


class Undo:
    """For one reply that ``meter`` reads; every byte of it goes in here, and what the client may see comes out."""

    def __init__(self, protocol: Protocol, added: Added, meter: Meter) -> None:
        self._protocol = protocol
        self._added = added
        self._meter = meter
        self._cutter = Cutter(meter.events)
        self._held: Piece | None = None
        self._unread: list[tuple[Piece, float]] = []

    def whole(self, data: bytes, now: float) -> bytes:
        """A reply that came at once."""
        self._meter.feed(data, now)
        self._meter.end(now)
        value = self._meter.value(data)
        return data if value is None else self._edited(data, value)[0]

    def feed(self, data: bytes, now: float) -> bytes:
        """The bytes for the client so far; may be none. To be followed by ``settle`` once they are sent."""
        out = b"".join(self._piece(piece, now) for piece in self._cutter.feed(data))
        if self._cutter.overflowed:
            self._meter.give_up()
            return out + self._release() + self._cutter.rest()
        return out

    def settle(self) -> None:
        """Reads what went on unread."""
        for piece, arrived in self._unread:
            self._meter.piece(piece, arrived)
        self._unread.clear()

    def end(self, now: float) -> bytes:
        last = self._piece(self._cutter.last(), now)
        self.settle()
        return self._release() + last

    def _piece(self, piece: Piece, now: float) -> bytes:
        if self._held is None and (plain := self._shown_unread(piece.data)) is not None:
            self._unread.append((piece, now))
            return piece.raw if plain is piece.data else piece.raw.replace(piece.data, plain, 1)
        self.settle()
        value = self._meter.piece(piece, now)
        if value is None:
            return self._release() + piece.raw
        if self._added.usage and not items(value.get("choices")) and members(value.get("usage")):
            return self._release(value, piece.data)
        out = self._release()
        data, is_empty = self._edited(piece.data, value)
        if is_empty:
            return out
        shown = piece if data == piece.data else piece._replace(raw=piece.raw.replace(piece.data, data, 1), data=data)
        if self._added.usage and any(members(choice).get("finish_reason") for choice in items(value.get("choices"))):
            self._held = shown
            return out
        return out + shown.raw

    def _shown_unread(self, data: bytes) -> bytes | None:
        """What the client gets of a piece that need not be read for it, as nearly all; None where it must be read."""
        if self._protocol.is_openai and not _goes_on(data):
            return None
        return without_logprobs(data) if self._added.logprobs and b'"logprobs"' in data else data

    def _release(self, usage: Json | None = None, data: bytes = b"") -> bytes:
        """The event that was held back, with the timings of the usage event, if that is what came after it."""
        held, self._held = self._held, None
        if held is None:
            return b""
        if usage is None or "timings" not in usage:
            return held.raw
        more = member_text(data.decode("utf-8"), usage, ("timings",))
        return held.raw.replace(held.data, with_members(held.data.decode("utf-8"), [more]).encode(), 1)

    def _edited(self, data: bytes, value: Json) -> tuple[bytes, bool]:
        """The JSON without what was added, and whether nothing is left that it would have been sent for."""
        paths: list[Path] = []
        if self._added.logprobs and self._protocol is Protocol.OLLAMA_CHAT:
            paths.append(("logprobs",))
        elif self._added.logprobs:
            paths += [("choices", number, "logprobs") for number in range(len(items(value.get("choices"))))]
        if self._added.usage and "usage" in value and value["usage"] is None:
            paths.append(("usage",))
        # Most pieces hold neither; to find that out is cheap.
        paths = [path for path in paths if f'"{path[-1]}"'.encode() in data]
        if not paths:
            return data, False
        is_empty = self._meter.streamed and self._added.logprobs and _rows(self._protocol, value) and _says_nothing(value)
        return without(data.decode("utf-8"), value, paths).encode(), bool(is_empty)


def _goes_on(data: bytes) -> bool:
    """Whether the event is neither the end of a stream nor about usage, as nearly all are; told without reading it."""
    return b'"usage"' not in data and (b'"finish_reason":null' in data or b'"finish_reason": null' in data)


def _rows(protocol: Protocol, value: Json) -> bool:
    if protocol is Protocol.OLLAMA_CHAT:
        return bool(items(value.get("logprobs")))
    return bool(items(members(_choice(value).get("logprobs")).get("content")))


def _says_nothing(value: Json) -> bool:
    """Whether neither text nor thinking, call or end is in the piece."""
    choice = _choice(value)
    message: dict[str, Any] = {**members(value.get("message")), **members(choice.get("delta"))}
    ended = choice.get("finish_reason") or value.get("done") is True or value.get("usage") or value.get("timings")
    return not ended and not any(part for key, part in message.items() if key != "role")


def _choice(value: Json) -> Json:
    return members(next(iter(items(value.get("choices"))), None))
