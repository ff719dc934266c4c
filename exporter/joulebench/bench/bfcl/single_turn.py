"""One question, one reply: its calls are checked and compared with the known answers, and none is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from joulebench.bench.bfcl import package
from joulebench.bench.bfcl.conversation import opening
from joulebench.bench.bfcl.functions import tools, validators
from joulebench.bench.stage import Attempt, Result, refusal
from joulebench.llm.chat import Message, Reply, ToolCall, ToolSpec

NO_CALL_WANTED = ("irrelevance", "live_irrelevance")
"""Categories whose right reply holds no call."""


class SingleTurnStage:
    """Passes when the package's checker accepts the calls of the first reply."""

    def __init__(self, entry: package.Entry, category: str, answer: Sequence[Any], examples: int) -> None:
        self.specs: tuple[ToolSpec, ...] = tools(entry["function"])
        self.over = False
        self._entry = entry
        self._category = category
        self._answer = answer
        self._examples = examples
        self._validators = validators(self.specs)
        self._calls: tuple[ToolCall, ...] = ()

    def opening(self) -> list[Message]:
        return opening(self._entry["question"][0], self._examples)

    def use(self, request: ToolCall) -> Attempt:
        return refusal(request, list(self._validators), self._validators.get(request.name)) or Attempt("ok", "ok")

    def replied(self, reply: Reply) -> Sequence[Message]:
        self._calls = reply.tool_calls
        self.over = True
        return ()

    def result(self) -> Result:
        broken = next((call for call in self._calls if call.problem), None)
        if self._category in NO_CALL_WANTED:
            # What no server takes for a call is none, as in the package's own grade.
            made = [call.name for call in self._calls if not call.problem]
            return Result(not made, f"{made[0]} was called and no tool fits" if made else "")
        if broken is not None:
            return Result(False, f"malformed: {broken.problem}")
        if not self._calls:
            return Result(False, "no call was made")
        calls: list[Mapping[str, object]] = []
        for call in self._calls:
            if not isinstance(call.arguments, dict):
                return Result(False, f"the arguments of {call.name} are not an object")
            calls.append({call.name: call.arguments})
        return Result(*package.check_calls(self._entry["function"], calls, self._answer, self._category))


@dataclass(frozen=True, slots=True)
class SingleTurnTask:
    entry: package.Entry
    category: str
    answer: Sequence[Any]
    examples: int
    max_turns: int = 1
    timeout_seconds: float = 120.0
    stuck_after: int | None = None

    @property
    def id(self) -> str:
        return str(self.entry["id"])

    @property
    def name(self) -> str:
        return self.id

    @contextmanager
    def stage(self) -> Iterator[SingleTurnStage]:
        yield SingleTurnStage(self.entry, self.category, self.answer, self.examples)
