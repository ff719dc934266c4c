"""What the proxy asks for beyond the client: token usage in a stream, and logprobs if it was told to.

A client's own wish is never changed, only what it left open is filled in. What a model server refuses is not asked for again in
requests of the same kind.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from joulebench.parsing import members
from joulebench.proxy.asked import Asked, Protocol
from joulebench.proxy.surgery import with_members

MAX_KINDS = 1000


@dataclass(frozen=True, slots=True)
class Added:
    """``body``: the request for the model server. ``usage``, ``logprobs``: what is to be taken out of the reply."""

    body: bytes
    usage: bool = False
    logprobs: bool = False

    @property
    def anything(self) -> bool:
        return self.usage or self.logprobs


class Additions:
    """``top_logprobs``: alternatives to ask for beside each token; 0 leaves logprobs alone."""

    def __init__(self, usage: bool = True, top_logprobs: int = 0) -> None:
        self._usage = usage
        self._top_logprobs = top_logprobs
        self._refused: set[tuple[str, tuple[str, Protocol, bool, bool]]] = set()

    def to(self, asked: Asked, data: bytes) -> Added:
        if b"\x00" in data[:4]:
            # JSON in UTF-16 or UTF-32: legal, and not worth a second way to edit.
            return Added(data)
        usage = self._usage and self._may(asked, "usage") and _lacks_usage(asked)
        logprobs = self._top_logprobs > 0 and self._may(asked, "logprobs") and _lacks_logprobs(asked)
        if not (usage or logprobs):
            return Added(data)
        more = []
        if logprobs:
            more += ['"logprobs":true', f'"top_logprobs":{self._top_logprobs}']
        if usage and "stream_options" in asked.body:
            options = {**members(asked.body["stream_options"]), "include_usage": True}
            whole = json.dumps({**asked.body, "stream_options": options}, ensure_ascii=False)
            return Added(_encoded(with_members(whole, more) if more else whole), usage, logprobs)
        if usage:
            more.append('"stream_options":{"include_usage":true}')
        return Added(_encoded(with_members(data.decode("utf-8", "surrogateescape"), more)), usage, logprobs)

    def refused(self, asked: Asked, added: Added, error: bytes) -> None:
        """The model server took the request only without what was added."""
        blamed = [what for what, word in (("logprobs", b"logprob"), ("usage", b"stream_options")) if word in error]
        for what in blamed or ["logprobs", "usage"]:
            if getattr(added, what) and len(self._refused) < MAX_KINDS:
                self._refused.add((what, _kind(asked)))

    def _may(self, asked: Asked, what: str) -> bool:
        return bool(asked.body) and (what, _kind(asked)) not in self._refused


def _kind(asked: Asked) -> tuple[str, Protocol, bool, bool]:
    return asked.model, asked.protocol, asked.stream, bool(asked.tools)


def _lacks_usage(asked: Asked) -> bool:
    """Ollama's own API tells its counts unasked."""
    if not (asked.stream and asked.protocol.is_openai):
        return False
    options = asked.body.get("stream_options")
    return options is None or "include_usage" not in members(options)


def _lacks_logprobs(asked: Asked) -> bool:
    chat = asked.protocol in (Protocol.OPENAI_CHAT, Protocol.OLLAMA_CHAT)
    return chat and bool(asked.tools) and not {"logprobs", "top_logprobs"} & asked.body.keys()


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
