"""The stage of a file task: a private folder, the file tools, and checks over what is left in the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from joulebench.bench import prompts, tools
from joulebench.bench.grading import Check, grade
from joulebench.bench.stage import Attempt, Result
from joulebench.bench.workspace import Workspace
from joulebench.llm.chat import Message, Reply, ToolCall, ToolSpec


class FileStage:
    """A reply without a tool call is an answer, as is a call of the tool that ends the task."""

    specs: Sequence[ToolSpec] = tools.SPECS

    def __init__(self, instruction: str, checks: Sequence[Check], workspace: Workspace) -> None:
        self._instruction = instruction
        self._checks = checks
        self._workspace = workspace
        self._answer: str | None = None

    @property
    def over(self) -> bool:
        return self._answer is not None

    def opening(self) -> list[Message]:
        return prompts.opening(self._instruction)

    def use(self, request: ToolCall) -> Attempt:
        result = tools.attempt(self._workspace, request)
        if request.name == tools.FINISH and result.outcome == "ok":
            self._answer = result.text
        return result

    def replied(self, reply: Reply) -> Sequence[Message]:
        if not reply.tool_calls:
            self._answer = reply.text
        return ()

    def result(self) -> Result:
        verdict = grade(self._checks, self._answer or "", self._workspace.snapshot())
        held = [index for index, good in enumerate(verdict.held, start=1) if good]
        return Result(verdict.passed, verdict.reason, tuple((index, str(self._checks[index - 1])) for index in held))


@contextmanager
def file_stage(instruction: str, files: Mapping[str, str], checks: Sequence[Check]) -> Iterator[FileStage]:
    with Workspace(files) as workspace:
        yield FileStage(instruction, checks, workspace)
