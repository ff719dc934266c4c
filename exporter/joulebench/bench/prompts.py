"""What every model is told before a task: short, the same for all, with worked examples in the form of past turns.

The examples are there for small models, which answer in prose or invent tools without them. None of them is a task of a shipped
suite, and all stand in front of the task, where a server's prefix cache keeps them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from joulebench.bench.tools import FINISH
from joulebench.llm.chat import Message, ToolCall

SYSTEM = (
    "You are an agent that works with files. Call one tool at a time and wait for its result."
    f" When the task is done, call {FINISH} with the answer."
)

Step = tuple[str, dict[str, str], str]
"""Tool, arguments, result."""


def _worked(instruction: str, steps: Sequence[Step]) -> list[Message]:
    messages = [Message("user", instruction)]
    for name, arguments, result in steps:
        call_id = f"call_{name}"
        messages.append(Message("assistant", tool_calls=(ToolCall(name, json.dumps(arguments), arguments, "", call_id),)))
        messages.append(Message("tool", result, tool_name=name, call_id=call_id))
    return messages


def _done(answer: str) -> Step:
    return FINISH, {"answer": answer}, answer


# The order is from rare to common, since a small model follows the examples nearest to the task most; and each answer is the
# last result, a rule that it can pick up.
EXAMPLES: tuple[Message, ...] = (
    *_worked(
        "What is the sum of the column age in team.csv?",
        [
            ("csv_column", {"path": "team.csv", "column": "age"}, "20\n31"),
            ("calculate", {"expression": "20+31"}, "51"),
            _done("51"),
        ],
    ),
    *_worked("Calculate 20 + 31.", [("calculate", {"expression": "20 + 31"}, "51"), _done("51")]),
    *_worked("Which files are there?", [("list_files", {}, "a.txt\nb.txt"), _done("a.txt\nb.txt")]),
    *_worked("Delete the file tmp.dat.", [("delete_file", {"path": "tmp.dat"}, "ok"), _done("ok")]),
    *_worked("Append 'end' to the file log.txt.", [("append_file", {"path": "log.txt", "text": "end"}, "ok"), _done("ok")]),
    *_worked("How many lines has log.txt?", [("count_lines", {"path": "log.txt"}, "7"), _done("7")]),
    *_worked("Write 'good day' to the file hi.txt.", [("write_file", {"path": "hi.txt", "text": "good day"}, "ok"), _done("ok")]),
    *_worked("Read the file memo.txt.", [("read_file", {"path": "memo.txt"}, "Buy milk."), _done("Buy milk.")]),
)


def opening(instruction: str) -> list[Message]:
    """The conversation up to the model's first turn."""
    return [Message("system", SYSTEM), *EXAMPLES, Message("user", instruction)]
