"""Tool calls as plain text, in the Hermes form: for servers and models that are asked without a ``tools`` field.

The model sees its tools as JSON in the system message and answers with a JSON object (name, arguments) in <tool_call> tags.
Parsing never repairs: a call that is not JSON is kept as an attempt that failed, with its name where one can be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from joulebench.llm.chat import Json, Message, ToolRequest, ToolSpec

OPENER = "<tool_call>"
CLOSER = "</tool_call>"

_NAME = re.compile(r'"name"\s*:\s*"([^"\\]{1,200})')
_THINK_END = "</think>"


def declaration(tools: Sequence[ToolSpec]) -> str:
    """The text that tells the model its tools and the form of a call."""
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


def as_text(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> list[Json]:
    """The conversation in the three roles that every chat template knows; tool results come as user messages."""
    rendered: list[Json] = []
    for message in messages:
        match message.role:
            case "system":
                rendered.append({"role": "system", "content": f"{message.text}\n\n{declaration(tools)}"})
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


def parse(text: str) -> tuple[ToolRequest, ...]:
    """Every attempt at a call in ``text``, in order; thinking before the answer is skipped."""
    answer = text.rpartition(_THINK_END)[2]
    return tuple(_request(block.partition(CLOSER)[0].strip()) for block in answer.split(OPENER)[1:])


def _request(block: str) -> ToolRequest:
    try:
        call = json.loads(block)
    except (ValueError, RecursionError) as error:
        return _malformed(block, f"the call is not JSON: {error}")
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return _malformed(block, "the call has no name")
    arguments = call.get("arguments", {})
    return ToolRequest(call["name"], json.dumps(arguments, ensure_ascii=False), arguments)


def _malformed(block: str, problem: str) -> ToolRequest:
    name = _NAME.search(block)
    return ToolRequest(name.group(1) if name else "", block, None, problem)
