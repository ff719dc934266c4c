"""What a model is told before a BFCL question."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from joulebench.llm.chat import Message, ToolCall

SYSTEM = "Answer with calls of the tools that you have. Where none of them fits, say so."
MAX_EXAMPLES = 3

_EXAMPLES: tuple[tuple[str, str, Mapping[str, object]], ...] = (
    ("Find books about whales, newest first.", "search_books", {"topic": "whales", "order": "newest"}),
    ("Convert 20 miles to kilometers.", "convert_length", {"value": 20, "from_unit": "miles", "to_unit": "kilometers"}),
    ("What will the weather be in Rome tomorrow?", "get_weather", {"city": "Rome", "day": "tomorrow"}),
)
"""They show the form of a call. Their tools are declared nowhere, so a task's own choice of tools stays what it is."""


def opening(turn: Sequence[Mapping[str, str]], examples: int, *, answered: bool = False) -> list[Message]:
    """``turn``: the first messages of an entry. ``answered``: examples go on with a result and a closing word."""
    system = [SYSTEM, *(message["content"] for message in turn if message["role"] == "system")]
    messages = [Message("system", "\n\n".join(system))]
    for number, (question, name, arguments) in enumerate(_EXAMPLES[len(_EXAMPLES) - examples :], start=1):
        call_id = f"call_{number}"
        call = ToolCall(name, json.dumps(arguments), dict(arguments), "", call_id)
        messages += [Message("user", question), Message("assistant", tool_calls=(call,))]
        if answered:
            messages += [Message("tool", "ok", tool_name=name, call_id=call_id), Message("assistant", "Done.")]
    return messages + said(turn)


def said(turn: Sequence[Mapping[str, str]]) -> list[Message]:
    return [
        Message("assistant" if message["role"] == "assistant" else "user", message["content"])
        for message in turn
        if message["role"] != "system"
    ]
