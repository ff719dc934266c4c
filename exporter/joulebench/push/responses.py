"""Replies as a client library hands them out: objects and dicts of openai, ollama, anthropic and LiteLLM, whole or streamed.

The API is seen by the shape of the first value, so that nothing has to be named. What cannot be read leaves the call without
numbers and never fails it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from joulebench.confidence.call_confidence import CallConfidence
from joulebench.confidence.measures import tool_call_confidences
from joulebench.llm.readers import Api, ReplyReader, reader_for
from joulebench.llm.reply import Reply
from joulebench.parsing import Json, as_dict, as_list, as_text
from joulebench.push.call import RequestedTool
from joulebench.push.ids import bounded_name

log = logging.getLogger(__name__)

_DUMPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("model_dump", {"mode": "json", "warnings": False}),
    ("model_dump", {}),
    ("to_dict", {}),
    ("dict", {}),
)
"""How client libraries turn their objects into dicts, newest first."""


class ResponseReader:
    """Collects one reply of any of the APIs. Nothing raises. ``on_first_token`` is called when the first token arrives."""

    def __init__(self, on_first_token: Callable[[], None] | None = None) -> None:
        self._on_first_token = on_first_token
        self._reader: ReplyReader | None = None

    def read(self, value: object, now: float | None = None) -> None:
        """Reads a whole reply, or a chunk that arrived at ``now`` by the monotonic clock."""
        try:
            content = as_json(value)
            if self._reader is None:
                api = detect_api(content)
                if api is None:
                    if "error" in content:
                        self._reader = reader_for(Api.OPENAI_CHAT)
                        self._reader.read(content, now)
                    return
                self._reader = reader_for(api, self._on_first_token)
            self._reader.read(content, now)
        except Exception:
            log.warning("a part of a reply could not be read; the call has only the numbers of the rest", exc_info=True)

    def finish(self) -> Reply | None:
        """The reply as far as it came; None where nothing of it could be read."""
        return None if self._reader is None else self._reader.finish()


def read_response(response: object) -> Reply | None:
    """The reply in ``response``; None where it is of no known API."""
    reader = ResponseReader()
    reader.read(response)
    return reader.finish()


def response_confidence(response: object, tools: Iterable[object]) -> list[CallConfidence]:
    """The confidence of each tool call in ``response``, an object or dict of openai, ollama, anthropic or LiteLLM.

    ``tools``: the tools of the request, as names or as they were declared to the server; their names are what the model could
    choose between. The request has to ask for log probabilities (``logprobs=True``); without them a call has no score.
    """
    reply = read_response(response)
    return [] if reply is None else [requested.confidence for requested in requested_tools(reply, tools)]


def requested_tools(reply: Reply, tools: Iterable[object]) -> list[RequestedTool]:
    """The tool calls of ``reply``, each with its confidence."""
    names = [call.name for call in reply.tool_calls]
    confidences = tool_call_confidences(reply.rows or (), names, tool_names(tools) or names)
    return [
        RequestedTool(bounded_name(call.name), call.arguments, confidence, call.problem)
        for call, confidence in zip(reply.tool_calls, confidences, strict=True)
    ]


def tool_names(tools: Iterable[object]) -> list[str]:
    """Names of tools that are given as names, functions or declarations of any API."""
    names = []
    for tool in tools:
        if isinstance(tool, str):
            names.append(tool)
            continue
        declaration = as_json(tool)
        name = as_text(as_dict(declaration.get("function")).get("name")) or as_text(declaration.get("name"))
        names.append(name or as_text(getattr(tool, "__name__", "")))
    return [name for name in names if name]


def as_json(value: object) -> Json:
    """The dict of a response object; empty where it has none."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Mapping):
        return dict(value)
    for name, arguments in _DUMPS:
        method = getattr(value, name, None)
        if not callable(method) or isinstance(value, type):
            continue
        try:
            content = method(**arguments)
        except TypeError:
            # An older library, which does not know the arguments.
            continue
        if isinstance(content, dict):
            return content
    return {}


def detect_api(value: Json) -> Api | None:
    """The API that a whole reply or a chunk is of, by its shape; None for none, as of a keep-alive or a first empty chunk."""
    kind = as_text(value.get("type"))
    if value.get("object") == "response" or kind.startswith("response."):
        return Api.RESPONSES
    if kind in ("message", "message_start", "message_delta", "message_stop") or kind.startswith("content_block"):
        return Api.MESSAGES
    if "choices" in value:
        choice = as_dict(next(iter(as_list(value["choices"])), None))
        return Api.OPENAI_TEXT if "text" in choice else Api.OPENAI_CHAT
    if "done" in value:
        return Api.OLLAMA_TEXT if "response" in value else Api.OLLAMA_CHAT
    return None
