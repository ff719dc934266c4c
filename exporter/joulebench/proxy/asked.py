"""What a request asks for, as far as it is metered: protocol by path, model, stream, declared tools.

Metered are chat and plain completions of OpenAI-compatible servers and Ollama's own chat and generate; anything else, such as a
model download, goes through as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from joulebench.values import Json, items, members, text


class Protocol(Enum):
    OPENAI_CHAT = "openai_chat"
    OPENAI_TEXT = "openai_text"
    OLLAMA_CHAT = "ollama_chat"
    OLLAMA_TEXT = "ollama_text"

    @property
    def is_openai(self) -> bool:
        return self in (Protocol.OPENAI_CHAT, Protocol.OPENAI_TEXT)


ENDINGS = {
    "/chat/completions": Protocol.OPENAI_CHAT,
    "/v1/completions": Protocol.OPENAI_TEXT,
    "/api/chat": Protocol.OLLAMA_CHAT,
    "/api/generate": Protocol.OLLAMA_TEXT,
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
    stream = body.get("stream") is True if protocol.is_openai else body.get("stream") is not False
    functions = [members(members(tool).get("function")) for tool in items(body.get("tools"))]
    tools = {name: members(function.get("parameters")) for function in functions if (name := text(function.get("name")))}
    return Asked(protocol, text(body.get("model")), stream, tools, body)
