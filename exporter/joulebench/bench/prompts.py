"""What every model is told before a task: short, the same for all, with worked examples in the form of past turns.

The examples are there for small models: without two or three past questions answered by a call they answer in prose.
"""

from __future__ import annotations

import json

from joulebench.bench.llm.chat import Message, ToolRequest
from joulebench.bench.tools import FINISH

SYSTEM = (
    "You are an agent that works with files. Call one tool at a time and wait for its result."
    f" When the task is done, call {FINISH} with the answer."
)


def _asked(instruction: str, name: str, result: str, answer: str, **arguments: str) -> list[Message]:
    return [
        Message("user", instruction),
        _called(name, **arguments),
        Message("tool", result, tool_name=name, call_id=f"example-{name}"),
        _called(FINISH, answer=answer),
        Message("tool", answer, tool_name=FINISH, call_id=f"example-{FINISH}"),
    ]


def _called(name: str, **arguments: str) -> Message:
    return Message("assistant", tool_calls=(ToolRequest(name, json.dumps(arguments), arguments, "", f"example-{name}"),))


EXAMPLES: tuple[Message, ...] = (
    *_asked("Read the file memo.txt.", "read_file", "Buy milk.", "Buy milk.", path="memo.txt"),
    *_asked("Write 'good day' to the file hi.txt.", "write_file", "ok", "done", path="hi.txt", text="good day"),
    *_asked("How many lines has log.txt?", "count_lines", "7", "7", path="log.txt"),
)


def opening(instruction: str) -> list[Message]:
    """The conversation up to the model's first turn."""
    return [Message("system", SYSTEM), *EXAMPLES, Message("user", instruction)]
