"""Tool calls as plain text in the Hermes form, for servers and models that are used without a ``tools`` member.

The system message declares the tools as JSON, and the model answers with a JSON object (name, arguments) in <tool_call> tags.
Parsing never repairs: a call that is not JSON is returned as malformed, with its name where one can be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from joulebench.llm.chat import Json, Message, ToolCall, ToolSpec

OPENER = "<tool_call>"
CLOSER = "</tool_call>"

_NAME = re.compile(r'"name"\s*:\s*"([^"\\]{1,200})')
_THINK_END = "</think>"


def render_declaration(tools: Sequence[ToolSpec]) -> str:
    """Returns the text that declares the tools and the form of a call to the model."""
    lines = [
        json.dumps({"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}) for tool in tools
    ]
    return "\n".join(
        [
            "You have these tools:",
            "<tools>",
            *lines,
            "</tools>",
            f'To call a tool, answer with {OPENER}{{"name": NAME, "arguments": {{...}}}}{CLOSER} and nothing else.',
        ]
    )


def render_messages(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> list[Json]:
    """Returns the conversation in the three roles of every chat template; tool results become user messages."""
    rendered: list[Json] = []
    for message in messages:
        match message.role:
            case "system":
                rendered.append({"role": "system", "content": f"{message.text}\n\n{render_declaration(tools)}"})
            case "assistant":
                calls = [
                    f'{OPENER}\n{{"name": {json.dumps(call.name)}, "arguments": {call.raw_arguments}}}\n{CLOSER}'
                    for call in message.tool_calls
                ]
                rendered.append({"role": "assistant", "content": message.text or "\n".join(calls)})
            case "tool":
                rendered.append({"role": "user", "content": f"Result of {message.tool_name}:\n{message.text}"})
            case "user":
                rendered.append({"role": "user", "content": message.text})
    return rendered


def parse_calls(text: str) -> tuple[ToolCall, ...]:
    """Returns every attempt at a call in ``text``, in order; thinking before the answer is skipped."""
    answer = text.rpartition(_THINK_END)[2]
    return tuple(_parse_call(block.partition(CLOSER)[0].strip()) for block in answer.split(OPENER)[1:])


def _parse_call(block: str) -> ToolCall:
    try:
        call = json.loads(block)
    except (ValueError, RecursionError) as error:
        return _malformed_call(block, f"the call is not JSON: {error}")
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return _malformed_call(block, "the call has no name")
    arguments = call.get("arguments", {})
    return ToolCall(call["name"], json.dumps(arguments, ensure_ascii=False), arguments)


def _malformed_call(block: str, problem: str) -> ToolCall:
    name = _NAME.search(block)
    return ToolCall(name.group(1) if name else "", block, None, problem)
