"""What one task puts around the model: its tools, what it is told, what a call comes to, and the verdict in the end.

The agent measures; a stage knows the task. Nothing of a stage reads a clock or talks to a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import jsonschema

from joulebench.llm.chat import Message, Reply, ToolCall, ToolSpec


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a tool call came to. ``outcome`` is one of metrics.TOOL_OUTCOMES; ``text`` goes back to the model."""

    outcome: str
    text: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """``steps``: number and name of each key step that was reached."""

    passed: bool
    reason: str
    steps: tuple[tuple[int, str], ...] = ()


class Stage(Protocol):
    """One attempt at a task, from ``opening`` to ``result``."""

    @property
    def specs(self) -> Sequence[ToolSpec]: ...

    @property
    def over(self) -> bool:
        """Whether the model is through; asked after every call and after every reply."""
        ...

    def opening(self) -> list[Message]:
        """The conversation up to the model's first turn."""
        ...

    def use(self, request: ToolCall) -> Attempt:
        """Checks and runs one call; a call that is wrong in any way is an outcome, never an exception."""
        ...

    def replied(self, reply: Reply) -> Sequence[Message]:
        """What the model is told after a reply and the results of its calls; empty where the results are all."""
        ...

    def result(self) -> Result:
        """The grade. Asked once, when the stage is over."""
        ...


class Work(Protocol):
    """A task that can be attempted, from whatever suite it comes."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def max_turns(self) -> int: ...

    @property
    def timeout_seconds(self) -> float: ...

    @property
    def stuck_after(self) -> int | None:
        """Turns with the very same calls after which it is given up; None: never."""
        ...

    def stage(self) -> AbstractContextManager[Stage]:
        """A fresh stage; leaving it cleans up."""
        ...


def failed(outcome: str, error: str) -> Attempt:
    return Attempt(outcome, f"error: {error}", error)


def refusal(request: ToolCall, names: Sequence[str], validator: jsonschema.Draft202012Validator | None) -> Attempt | None:
    """Why a call cannot be run: malformed, undeclared (no ``validator``) or schema_invalid; None for a call in order."""
    if request.problem:
        return failed("malformed", request.problem)
    if validator is None:
        return failed("undeclared", f"there is no tool {request.name[:100]!r}; there are {', '.join(names)}")
    fault = next(iter(validator.iter_errors(request.arguments)), None)
    if fault is not None:
        return failed("schema_invalid", f"wrong arguments of {request.name}: {fault.message[:300]}")
    return None
