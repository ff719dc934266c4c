"""What a request asks for, as far as it is metered: protocol by path, model, stream, declared tools.

Metered are chat, plain completions, responses, messages and embeddings of compatible servers and Ollama's own chat, generate and
embed; anything else, such as a model download, goes through as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from joulebench.parsing import Json, items, members, text


class Protocol(Enum):
    OPENAI_CHAT = "openai_chat"
    OPENAI_TEXT = "openai_text"
    OLLAMA_CHAT = "ollama_chat"
    OLLAMA_TEXT = "ollama_text"
    RESPONSES = "responses"
    MESSAGES = "messages"
    EMBEDDING = "embedding"

    @property
    def is_openai(self) -> bool:
        """Completions, chat or plain, with ``choices``."""
        return self in (Protocol.OPENAI_CHAT, Protocol.OPENAI_TEXT)

    @property
    def is_ollama(self) -> bool:
        return self in (Protocol.OLLAMA_CHAT, Protocol.OLLAMA_TEXT)


ENDINGS = {
    "/chat/completions": Protocol.OPENAI_CHAT,
    "/v1/completions": Protocol.OPENAI_TEXT,
    "/api/chat": Protocol.OLLAMA_CHAT,
    "/api/generate": Protocol.OLLAMA_TEXT,
    "/v1/responses": Protocol.RESPONSES,
    "/v1/messages": Protocol.MESSAGES,
    "/v1/embeddings": Protocol.EMBEDDING,
    "/api/embed": Protocol.EMBEDDING,
    "/api/embeddings": Protocol.EMBEDDING,
}


def protocol_of(method: str, path: str) -> Protocol | None:
    if method != "POST":
        return None
    return next((protocol for ending, protocol in ENDINGS.items() if path.endswith(ending)), None)


@dataclass(frozen=True, slots=True)
class Asked:
    """``tools``: JSON schema of the arguments by name of the declared tool. ``body`` is the request as parsed."""

    protocol: Protocol
    model: str = ""
    stream: bool = False
    tools: Mapping[str, Json] = field(default_factory=dict)
    body: Json = field(default_factory=dict)


def asked_of(protocol: Protocol, data: bytes) -> Asked | None:
    """None for a body that is no JSON object."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    # Ollama streams unless told not to, the others only when told to.
    stream = body.get("stream") is not False if protocol.is_ollama else body.get("stream") is True
    tools = dict(filter(None, map(_declared, items(body.get("tools")))))
    return Asked(protocol, text(body.get("model")), stream, tools, body)


def _declared(tool: object) -> tuple[str, Json] | None:
    """Name and schema of a tool: under ``function`` for completions, flat for responses, with an input schema for messages."""
    flat = members(tool)
    function = members(flat.get("function")) or flat
    name = text(function.get("name"))
    return (name, members(function.get("parameters") or function.get("input_schema"))) if name else None
