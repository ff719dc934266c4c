"""Several user turns against the package's simulators, which are plain Python objects: no program, no network, no file.

The model's calls run on instances of this attempt. The grade is the package's: it runs the calls again, beside those of the known
answer, and compares the states and results after each turn. It evaluates calls as Python text, so only calls that ran here are
written for it, with literals as arguments.
"""

from __future__ import annotations

import inspect
import json
import keyword
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from joulebench.bench.bfcl import package
from joulebench.bench.bfcl.conversation import opening, said
from joulebench.bench.bfcl.functions import tools, validators
from joulebench.bench.stage import Attempt, Result, failed, refusal
from joulebench.llm.chat import Message, Reply, ToolCall, ToolSpec

STEPS_PER_TURN = 20
"""As in the benchmark: a model that has not answered a turn by then has failed."""
MAX_RESULT_CHARACTERS = 4000

_attempts = count(1)


class MultiTurnStage:
    """A turn ends with a reply that holds no call; the task ends with its last turn."""

    def __init__(self, entry: package.Entry, answer: Sequence[Any], examples: int) -> None:
        excluded = set(entry.get("excluded_function", ()))
        docs = [doc for name in entry["involved_classes"] for doc in package.function_docs(name) if doc["name"] not in excluded]
        self.specs: tuple[ToolSpec, ...] = tools(docs)
        self.over = False
        self._entry = entry
        self._answer = answer
        self._examples = examples
        self._validators = validators(self.specs)
        self._methods = _methods(package.simulators(entry), self._validators)
        self._turns: list[list[list[str]]] = [[]]
        self._step: list[str] = []

    def opening(self) -> list[Message]:
        return opening(self._entry["question"][0], self._examples, answered=True)

    def use(self, request: ToolCall) -> Attempt:
        refused = refusal(request, list(self._validators), self._validators.get(request.name))
        if refused is not None and (refused.outcome != "schema_invalid" or not isinstance(request.arguments, dict)):
            return refused
        # The benchmark runs a call whatever its schema says; what comes of it is the simulator's answer.
        assert isinstance(request.arguments, dict)
        strange = next((name for name in request.arguments if not name.isidentifier() or keyword.iskeyword(name)), None)
        if strange is not None:
            return failed("schema_invalid", f"wrong arguments of {request.name}: {strange[:100]!r} is no argument")
        self._step.append(written(request.name, request.arguments))
        try:
            answer = self._methods[request.name](**request.arguments)
        except Exception as error:
            # A simulator raises whatever Python raises for arguments that it did not foresee.
            return failed("tool_error", f"{request.name}: {error}")
        text = answer if isinstance(answer, str) else json.dumps(answer, default=str, ensure_ascii=False)
        if refused is not None:
            return Attempt(refused.outcome, text[:MAX_RESULT_CHARACTERS], refused.error)
        if isinstance(answer, dict) and "error" in answer:
            return Attempt("tool_error", text, str(answer["error"])[:300])
        return Attempt("ok", text[:MAX_RESULT_CHARACTERS])

    def replied(self, reply: Reply) -> Sequence[Message]:
        if reply.tool_calls:
            self._turns[-1].append(self._step)
            self._step = []
            self.over = len(self._turns[-1]) >= STEPS_PER_TURN
            return ()
        if len(self._turns) == len(self._entry["question"]):
            self.over = True
            return ()
        self._turns.append([])
        return said(self._entry["question"][len(self._turns) - 1])

    def result(self) -> Result:
        if len(self._turns[-1]) >= STEPS_PER_TURN:
            return Result(False, f"turn {len(self._turns)} was not answered after {STEPS_PER_TURN} steps")
        return Result(*package.check_turns(self._entry, self._turns, self._answer, f"joulebench_{next(_attempts)}"))


@dataclass(frozen=True, slots=True)
class MultiTurnTask:
    entry: package.Entry
    answer: Sequence[Any]
    examples: int
    timeout_seconds: float = 600.0
    stuck_after: int | None = None
    """The benchmark lets a model repeat itself: ``STEPS_PER_TURN`` is its only limit."""

    @property
    def id(self) -> str:
        return str(self.entry["id"])

    @property
    def name(self) -> str:
        return self.id

    @property
    def max_turns(self) -> int:
        return STEPS_PER_TURN * len(self.entry["question"])

    @contextmanager
    def stage(self) -> Iterator[MultiTurnStage]:
        yield MultiTurnStage(self.entry, self.answer, self.examples)


def written(name: str, arguments: Mapping[str, object]) -> str:
    """As Python text. Values come from JSON, so their representations are literals and nothing else."""
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def _methods(instances: Mapping[str, object], declared: Mapping[str, object]) -> dict[str, Callable[..., object]]:
    """The declared functions, where the simulators have them; nothing else of an object can be reached by name."""
    members = (pair for instance in instances.values() for pair in inspect.getmembers(instance, predicate=inspect.ismethod))
    found: dict[str, Callable[..., object]] = {name: method for name, method in members if name in declared}
    missing = set(declared) - set(found)
    assert not missing, f"declared and not there: {missing}"
    return found
