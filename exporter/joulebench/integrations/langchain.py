"""Callback handler of LangChain: the calls of any of its models, in the open task of their context.

    model.invoke(messages, config={"callbacks": [JoulebenchHandler()]})

It is for models whose client ``joulebench.instrument()`` does not know; where that records a client, it leaves the calls to it.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import LLMResult

from joulebench.integrations.instrument import CLIENT_MODULES, RecordedCall, begin_call, is_instrumented
from joulebench.parsing import as_dict


class JoulebenchHandler(BaseCallbackHandler):
    """One handler may serve any number of models, threads and coroutines."""

    run_inline = True
    """Asynchronous models call it in their own context, at the time of the event."""

    def __init__(self) -> None:
        self._calls: dict[UUID, RecordedCall] = {}

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        if any(map(is_instrumented, CLIENT_MODULES)):
            return
        parameters = as_dict(kwargs.get("invocation_params"))
        call = begin_call(parameters.get("model") or parameters.get("model_name"), parameters.get("tools"))
        if call is not None:
            self._calls[run_id] = call

    def on_llm_start(self, serialized: dict[str, Any], prompts: list[str], *, run_id: UUID, **kwargs: Any) -> None:
        self.on_chat_model_start(serialized, [], run_id=run_id, **kwargs)

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, run_id: UUID, **kwargs: Any) -> None:
        call = self._calls.get(run_id)
        message = getattr(chunk, "message", None)
        has_tool = isinstance(message, AIMessageChunk) and bool(message.tool_call_chunks)
        if call is not None and (token or has_tool):
            # A part of a tool call counts as a token that arrived; its text comes with the end.
            call.chunk({"choices": [{"delta": {"content": token if isinstance(token, str) and token else " "}}]})

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._calls.pop(run_id, None)
        if call is not None:
            call.chunk(_as_openai(response))
            call.end()

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._calls.pop(run_id, None)
        if call is not None:
            call.end(error)


def _as_openai(response: LLMResult) -> dict[str, Any]:
    """The result in the shape of an OpenAI response, with what LangChain knows of any model."""
    generation = next((first for answers in response.generations for first in answers), None)
    message = getattr(generation, "message", None)
    if not isinstance(message, AIMessage):
        return {"choices": [{"message": {}}]}
    usage = message.usage_metadata
    calls = [
        {"index": index, "id": call["id"], "function": {"name": call["name"], "arguments": json.dumps(call["args"])}}
        for index, call in enumerate(message.tool_calls)
    ]
    counts: dict[str, Any] = {}
    if usage is not None:
        cached = (usage.get("input_token_details") or {}).get("cache_read")
        counts = {
            "prompt_tokens": usage["input_tokens"],
            "completion_tokens": usage["output_tokens"],
            "prompt_tokens_details": {} if cached is None else {"cached_tokens": cached},
        }
    return {
        "choices": [{"message": {"tool_calls": calls}, "logprobs": message.response_metadata.get("logprobs")}],
        "usage": counts,
    }
