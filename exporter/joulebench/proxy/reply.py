"""What a reply came to, put together from its pieces or from the whole of it, for both families of protocols.

The model server's own counts and timings come first; what it does not tell is either seen in the arrival of the pieces or is
absent. Only the first choice of a reply is read for calls and logprobs.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from joulebench.confidence.tokens import TokenLogprob
from joulebench.parsing import Json, count, items, members, number, text

MAX_TEXT_CHARACTERS = 4 * 1024 * 1024
MAX_ROWS = 200_000


@dataclass(slots=True)
class Call:
    """A tool call as the model server gave it. ``arguments``: JSON text, put together from its pieces, or an object."""

    name: str = ""
    arguments: str = ""
    parsed: object = None
    """The object itself, where the protocol gives one."""


@dataclass(slots=True)
class Arrivals:
    """When the pieces that can hold a token arrived, by the monotonic clock; ``gaps`` are the seconds between them."""

    first: float | None = None
    last: float | None = None
    gaps: array[float] = field(default_factory=lambda: array("d"))

    def token(self, now: float) -> None:
        if self.last is None:
            self.first = now
        else:
            self.gaps.append(now - self.last)
        self.last = now

    def decode(self, completion_tokens: int | None) -> tuple[float | None, int | None]:
        """First to last token and the tokens in it, where most tokens came as pieces of their own."""
        pieces = len(self.gaps) + 1
        if self.first is None or self.last is None or completion_tokens is None:
            return None, None
        if pieces < 2 or pieces < completion_tokens / 2 or self.last <= self.first:
            return None, None
        return self.last - self.first, completion_tokens - 1


@dataclass(slots=True)
class Reply:
    """Seconds and tokens are None where nobody tells. ``complete``: ended as its protocol ends a reply. ``failed``: the model
    server said so in the reply. ``unread``: some of it was no JSON object."""

    arrivals: Arrivals = field(default_factory=Arrivals)
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    prefill_seconds: float | None = None
    prefill_tokens: int | None = None
    decode_seconds: float | None = None
    decode_tokens: int | None = None
    load_seconds: float | None = None
    queue_seconds: float | None = None
    calls: dict[int, Call] = field(default_factory=dict)
    rows: list[TokenLogprob] = field(default_factory=list)
    complete: bool = False
    failed: bool = False
    unread: bool = False
    _texts: list[str] = field(default_factory=list)
    _characters: int = 0

    @property
    def content(self) -> str:
        return "".join(self._texts)

    def say(self, content: str) -> None:
        """Text of the reply; beyond a limit only counted, since it is kept for calls that were written as text."""
        self._characters += len(content)
        if content and self._characters <= MAX_TEXT_CHARACTERS:
            self._texts.append(content)

    def add_rows(self, value: object) -> int:
        """How many rows were there; a row without a usable logprob is left out, so that no call is covered by a guess."""
        rows = items(value)
        if len(self.rows) + len(rows) <= MAX_ROWS:
            self.rows += [row for row in map(_row, rows) if row is not None]
        return len(rows)


def _row(value: object) -> TokenLogprob | None:
    row = members(value)
    logprob = number(row.get("logprob"))
    if logprob is None:
        return None
    top = [(text(other.get("token")), number(other.get("logprob"))) for other in map(members, items(row.get("top_logprobs")))]
    return TokenLogprob(text(row.get("token")), logprob, tuple((token, nats) for token, nats in top if nats is not None))


def error_in(value: Json) -> bool:
    """Whether an answer says that it is an error, in any of the shapes that servers use."""
    return value.get("error") not in (None, "")


def cached_in(usage: Json) -> int | None:
    return count(members(usage.get("prompt_tokens_details")).get("cached_tokens"))
