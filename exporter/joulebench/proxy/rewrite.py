"""Adds members to a request that make its reply measurable, and removes what came of them from the reply.

Added are the token usage of a stream and, where the proxy was started so, logprobs. A member that the client sent itself is never
changed. The client gets the bytes that the server would have sent without the additions: logprobs go out of every event, an event
that existed for them alone goes as a whole, and so does the usage event of a stream; what llama.cpp puts there (``timings``)
returns to the event before, where it would have been. Everything else stays byte by byte.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from joulebench.llm.decoder import ReplyDecoder
from joulebench.llm.events import StreamEvent
from joulebench.llm.logprob_cost import AUTO_LOGPROBS, logprob_cost
from joulebench.llm.readers import Api
from joulebench.llm.refusals import RefusalMemory
from joulebench.parsing import Json, as_dict, as_list
from joulebench.proxy.request import MAX_SMALL_BODY, MeteredRequest

log = logging.getLogger(__name__)

MAX_ACCEPTED_KINDS = 1000
AUTO_ALTERNATIVES = 5
MEASURED_CALLS = 5
"""Calls of a model with logprobs, and as many without, from which their cost is measured."""
MAX_TIMED_CALLS = 100
MAX_MEASURED_KINDS = 100


@dataclass(frozen=True, slots=True)
class ExtendedRequest:
    """``body``: for the model server. ``usage``, ``logprobs``: what was added and has to be removed from the reply."""

    body: bytes
    usage: bool = False
    logprobs: bool = False

    @property
    def is_extended(self) -> bool:
        return self.usage or self.logprobs


class LogprobTrial:
    """Measures for each kind of request what logprobs cost, on its first calls: every other one is made with them.

    ``wants`` is for the thread of the requests, ``observe`` for that which reads the replies.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[Hashable, dict[bool, list[tuple[float, int]]]] = {}
        self._asked: dict[Hashable, int] = {}
        self._is_cheap: dict[Hashable, bool] = {}

    def wants(self, request: MeteredRequest) -> bool:
        """Whether to add logprobs to a request."""
        kind = _kind(request, "logprobs")
        with self._lock:
            if kind in self._is_cheap:
                return self._is_cheap[kind]
            if kind not in self._asked and len(self._asked) >= MAX_MEASURED_KINDS:
                return False
            self._asked[kind] = self._asked.get(kind, 0) + 1
            return self._asked[kind] % 2 == 1

    def observe(self, request: MeteredRequest, seconds: float, completion_tokens: int | None, *, has_logprobs: bool) -> None:
        """Takes a complete reply to a request without logprobs of its own."""
        if not completion_tokens or not _lacks_logprobs(request):
            return
        kind = _kind(request, "logprobs")
        with self._lock:
            if kind in self._is_cheap or kind not in self._asked:
                return
            calls = self._calls.setdefault(kind, {True: [], False: []})
            if len(calls[has_logprobs]) < MAX_TIMED_CALLS:
                calls[has_logprobs].append((seconds, completion_tokens))
            if min(map(len, calls.values())) < MEASURED_CALLS:
                return
            cost = logprob_cost(calls[True], calls[False])
            del self._calls[kind]
            self._is_cheap[kind] = cost is not None and cost.is_cheap
        log.info("model %s: %s", request.model, cost)


class RequestAdditions:
    """Decides what to add to a request. ``top_logprobs``: alternatives to ask for beside each token; 0 adds no logprobs,
    AUTO_LOGPROBS where they are cheap."""

    def __init__(self, usage: bool = True, top_logprobs: int = 0) -> None:
        self.trial = LogprobTrial() if top_logprobs == AUTO_LOGPROBS else None
        self._usage = usage
        self._top_logprobs = top_logprobs if self.trial is None else AUTO_ALTERNATIVES
        self._refused = RefusalMemory()
        self._accepted: dict[Hashable, None] = {}

    def extend(self, request: MeteredRequest, body: bytes, now: float) -> ExtendedRequest:
        """Returns the request with what it lacks, at the monotonic time ``now``."""
        if b"\x00" in body[:4]:
            # JSON in UTF-16 or UTF-32: legal, and rare enough to pass it as it is.
            return ExtendedRequest(body)
        usage = self._usage and _lacks_usage(request) and not self._refused.is_refused(_kind(request, "usage"), now)
        logprobs = self._top_logprobs > 0 and _lacks_logprobs(request)
        logprobs = logprobs and not self._refused.is_refused(_kind(request, "logprobs"), now)
        logprobs = logprobs and (self.trial is None or self.trial.wants(request))
        members = []
        if logprobs:
            members += ['"logprobs":true', f'"top_logprobs":{self._top_logprobs}']
        if usage and "stream_options" not in request.members:
            members.append('"stream_options":{"include_usage":true}')
        elif usage:
            rewritten = _with_usage_option(request, body)
            usage, body = rewritten is not None, rewritten or body
        if members:
            body = with_members(body, members)
        return ExtendedRequest(body, usage, logprobs)

    def remember_refusal(self, request: MeteredRequest, extended: ExtendedRequest, error: bytes, now: float) -> None:
        """Records that the model server took a request only without its additions. ``error``: its answer to them."""
        named = [name for name, word in (("logprobs", b"logprob"), ("usage", b"stream_options")) if word in error]
        for name in named or ["logprobs", "usage"]:
            if getattr(extended, name):
                self._refused.remember(_kind(request, name), now)
                self._accepted.pop(_extended_kind(request, extended), None)

    def remember_acceptance(self, request: MeteredRequest, extended: ExtendedRequest) -> None:
        self._accepted[_extended_kind(request, extended)] = None
        if len(self._accepted) > MAX_ACCEPTED_KINDS:
            del self._accepted[next(iter(self._accepted))]

    def are_accepted(self, request: MeteredRequest, extended: ExtendedRequest) -> bool:
        """Whether a reply to a request of this kind has begun well with these additions."""
        return _extended_kind(request, extended) in self._accepted


def _kind(request: MeteredRequest, addition: str) -> Hashable:
    return addition, request.model, request.api, request.stream, "tools" in request.members


def _extended_kind(request: MeteredRequest, extended: ExtendedRequest) -> Hashable:
    return extended.usage, extended.logprobs, request.model, request.api, request.stream, "tools" in request.members


def _lacks_usage(request: MeteredRequest) -> bool:
    """Ollama's own API reports its counts without being asked."""
    if not (request.stream and request.api.is_openai):
        return False
    return request.stream_options is None or "include_usage" not in as_dict(request.stream_options)


def _lacks_logprobs(request: MeteredRequest) -> bool:
    is_chat = request.api in (Api.OPENAI_CHAT, Api.OLLAMA_CHAT)
    return is_chat and bool(request.tools) and not {"logprobs", "top_logprobs"} & request.members


def _with_usage_option(request: MeteredRequest, body: bytes) -> bytes | None:
    """Returns the body with ``include_usage`` in the stream options that it has; None where it is too large to be rewritten."""
    if len(body) > MAX_SMALL_BODY:
        return None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    options = {**as_dict(request.stream_options), "include_usage": True}
    return _encode(json.dumps({**value, "stream_options": options}, ensure_ascii=False))


class ResponseFilter:
    """Removes the additions from one reply, which ``decoder`` reads. Every byte goes in here, and what the client may see comes
    out. ``has_payload``: an event with a payload was read."""

    def __init__(self, api: Api, extended: ExtendedRequest, decoder: ReplyDecoder) -> None:
        self.has_payload = False
        self._api = api
        self._extended = extended
        self._decoder = decoder
        self._may_be_changed = _pattern_of_changes(extended.usage, extended.logprobs)
        self._held: StreamEvent | None = None
        """The last event of the text, until it is known whether a usage event follows."""
        self._drops_blank_lines = False
        """Whether the blank line of a removed event is still to come."""

    def filter_whole(self, data: bytes) -> bytes:
        """Returns a complete reply that is not streamed without the additions."""
        value = self._decoder.read_whole(data)
        return data if value is None else self._without_additions(data, value)[0]

    def passes_unchanged(self, chunk: bytes) -> bool:
        """Returns whether ``feed`` is certain to return ``chunk`` as it is, so that it can be sent before it is parsed.

        That is so for most chunks: complete events without a member that is removed or ends the text.
        """
        if self._held is not None or self._drops_blank_lines or not self._decoder.is_between_events:
            return False
        is_complete = chunk.endswith(b"\n\n") or (chunk.startswith(b"{") and chunk.find(b"\n") == len(chunk) - 1)
        return is_complete and self._may_be_changed.search(chunk) is None

    def feed(self, data: bytes, now: float) -> bytes:
        """Returns the bytes for the client so far, without the reply's content coding; may be none."""
        return b"".join([self._filter_event(event, now) for event in self._decoder.split(self._decoder.inflate(data))])

    @property
    def has_failed(self) -> bool:
        """Whether the content coding of the reply cannot be read any further."""
        return self._decoder.inflate_problem is not None

    @property
    def is_complete(self) -> bool:
        """Whether the content coding of the reply has come to its end."""
        return self._decoder.is_inflated

    def finish(self, now: float) -> bytes:
        """Returns what is left at the end of the reply."""
        rest = b"".join([self._filter_event(event, now) for event in self._decoder.split_rest()])
        return rest + self._release()

    def _filter_event(self, event: StreamEvent, now: float) -> bytes:
        if not event.data:
            return self._filter_blank(event)
        self._drops_blank_lines = False
        self.has_payload = True
        value = self._decoder.read_event(event, now)
        if value is None:
            return self._release() + event.raw
        if self._extended.usage and not as_list(value.get("choices")) and as_dict(value.get("usage")):
            self._drops_blank_lines = True
            return self._release(value, event.data)
        before = self._release()
        data, is_empty = self._without_additions(event.data, value)
        if is_empty:
            self._drops_blank_lines = True
            return before
        shown = event if data == event.data else _with_payload(event, data)
        if self._extended.usage and any(as_dict(choice).get("finish_reason") for choice in as_list(value.get("choices"))):
            self._held = shown
            return before
        return before + shown.raw

    def _filter_blank(self, event: StreamEvent) -> bytes:
        is_blank = not event.raw.strip()
        if is_blank and self._drops_blank_lines:
            return b""
        if is_blank and self._held is not None:
            self._held = self._held._replace(raw=self._held.raw + event.raw)
            return b""
        return self._release() + event.raw

    def _release(self, usage: Json | None = None, data: bytes = b"") -> bytes:
        """Returns the held event, with the timings of the usage event where that is what follows."""
        held, self._held = self._held, None
        if held is None:
            return b""
        if usage is None or "timings" not in usage:
            return held.raw
        member = member_text(_decode(data), usage, ("timings",))
        return _with_payload(held, with_members(held.data, [member])).raw

    def _without_additions(self, data: bytes, value: Json) -> tuple[bytes, bool]:
        """Returns the JSON without the additions, and whether nothing is left for which the server would have sent it."""
        paths: list[Path] = []
        if self._extended.logprobs and self._api is Api.OLLAMA_CHAT:
            paths.append(("logprobs",))
        elif self._extended.logprobs:
            paths += [("choices", number, "logprobs") for number in range(len(as_list(value.get("choices"))))]
        if self._extended.usage and "usage" in value and value["usage"] is None:
            paths.append(("usage",))
        # Most events hold neither, and finding that out is cheap.
        paths = [path for path in paths if f'"{path[-1]}"'.encode() in data]
        if not paths:
            return data, False
        is_empty = self._decoder.streamed and self._extended.logprobs and _has_rows(self._api, value) and _is_silent(value)
        return _encode(without_members(_decode(data), value, paths)), bool(is_empty)


@lru_cache
def _pattern_of_changes(usage: bool, logprobs: bool) -> re.Pattern[bytes]:
    """Finds what makes it possible that an event is changed or kept back, for these additions."""
    # An escape may be part of a name, NUL is UTF-16, and after CR an LF of the same line end may follow.
    patterns = [rb"\\u00|[\x00\r]"]
    if usage:
        patterns.append(rb'"usage"|"finish_reason"(?!\s*:\s*n)')
    if logprobs:
        patterns.append(rb'"logprobs"')
    return re.compile(b"|".join(patterns))


def _with_payload(event: StreamEvent, data: bytes) -> StreamEvent:
    """Returns ``event`` with another payload and every other byte as it was."""
    if event.data in event.raw:
        return event._replace(raw=event.raw.replace(event.data, data, 1), data=data)
    lines = event.raw.splitlines(keepends=True)
    places = [number for number, line in enumerate(lines) if line.startswith(b"data:")]
    if not places:
        return event
    line = lines[places[0]]
    end = line[len(line.rstrip(b"\r\n")) :]
    kept = [b"data: " + data + end if number == places[0] else lines[number] for number in range(len(lines))]
    kept = [line for number, line in enumerate(kept) if number == places[0] or number not in places]
    return event._replace(raw=b"".join(kept), data=data)


def _has_rows(api: Api, value: Json) -> bool:
    if api is Api.OLLAMA_CHAT:
        return bool(as_list(value.get("logprobs")))
    return bool(as_list(as_dict(_choice(value).get("logprobs")).get("content")))


def _is_silent(value: Json) -> bool:
    """Returns whether the event holds neither text nor thinking, tool call or end."""
    choice = _choice(value)
    message: dict[str, Any] = {**as_dict(value.get("message")), **as_dict(choice.get("delta"))}
    is_end = choice.get("finish_reason") or value.get("done") is True or value.get("usage") or value.get("timings")
    return not is_end and not any(part for key, part in message.items() if key != "role")


def _choice(value: Json) -> Json:
    return as_dict(next(iter(as_list(value.get("choices"))), None))


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# Members of JSON text are removed and added with every other byte as it is. Each cut is checked: what is left has to parse to the
# value without the member. Where no cut passes, the text is written anew from the value, which is the same JSON in other bytes.

Path = tuple[str | int, ...]

_JSON = json.JSONDecoder()
_COLON = re.compile(r"\s*:\s*")
_COMMA_BEFORE = re.compile(r",\s*\Z")
_COMMA_AFTER = re.compile(r"\s*,\s*")
_write: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":")).encode


def without_members(text: str, value: Any, paths: Iterable[Path]) -> str:
    """Returns ``text``, whose parsed value is ``value``, without the members at ``paths``; absent members are no error."""
    for path in paths:
        if _has_member(value, path):
            rest = _copy_without(value, path)
            # A quote within a string is escaped, so a name that stands once stands as the member's: nothing to check then.
            is_certain = text.count(json.dumps(path[-1])) == 1
            cuts = (cut for cut in _cuts(text, str(path[-1])) if is_certain or _parses_to(cut, rest))
            text = next(cuts, None) or _write(rest)
            value = rest
    return text


def with_members(data: bytes, members: Iterable[str]) -> bytes:
    """Returns ``data``, a JSON object, with ``members`` at its end, each as ``"key":value``."""
    end = data.rindex(b"}")
    start = data[:end].rstrip()
    separator = b"" if start.endswith(b"{") else b","
    return b"".join((start, separator, _encode(",".join(members)), data[end:]))


def member_text(text: str, value: Any, path: Path) -> str:
    """Returns the member at ``path`` as ``"key":value``, with the text of its value as it is in ``text``."""
    wanted = _member(value, path)
    for _, start, end in _occurrences(text, str(path[-1])):
        if _JSON.raw_decode(text, start)[0] == wanted:
            return f"{json.dumps(path[-1])}:{text[start:end]}"
    return f"{json.dumps(path[-1])}:{_write(wanted)}"


def _cuts(text: str, key: str) -> Iterator[str]:
    for at, _, end in _occurrences(text, key):
        before = _COMMA_BEFORE.search(text, max(0, at - 64), at)
        if before:
            yield text[: before.start()] + text[end:]
            continue
        after = _COMMA_AFTER.match(text, end)
        yield text[:at] + text[after.end() if after else end :]


def _occurrences(text: str, key: str) -> Iterator[tuple[int, int, int]]:
    """Yields where the key is a member's name: start of the key, start and end of the value."""
    quoted = json.dumps(key)
    at = text.find(quoted)
    while at >= 0:
        colon = _COLON.match(text, at + len(quoted))
        if colon:
            with suppress(ValueError, RecursionError):
                yield at, colon.end(), _JSON.raw_decode(text, colon.end())[1]
        at = text.find(quoted, at + 1)


def _has_member(value: Any, path: Path) -> bool:
    try:
        _member(value, path)
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _member(value: Any, path: Path) -> Any:
    for step in path:
        if isinstance(step, str) != isinstance(value, dict):
            raise TypeError(step)
        value = value[step]
    return value


def _copy_without(value: Any, path: Path) -> Any:
    """Returns a copy of what lies on the path; the rest is shared."""
    step, *left = path
    changed: Any = dict(value) if isinstance(value, dict) else list(value)
    if left:
        changed[step] = _copy_without(changed[step], tuple(left))
    else:
        del changed[step]
    return changed


def _parses_to(text: str, value: Any) -> bool:
    try:
        return bool(json.loads(text) == value)
    except (ValueError, RecursionError):
        return False
