"""One task: ask the model, run its tool calls, show it the results, until it finishes, gives up or runs out.

Everything that is measured goes through the push door, as from any benchmark. A model or server that fails ends the task with
a status, never the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from joulebench.bench.stage import Attempt, Stage, Work
from joulebench.clock import Clock
from joulebench.confidence.measures import CallConfidence, tool_call_confidences
from joulebench.errors import ModelError
from joulebench.llm.chat import CallTimeout, ChatModel, ContextFull, Message, ModelUnreachable, Reply, ToolCall
from joulebench.push.run import Run
from joulebench.push.task import Task
from joulebench.units import Seconds


@dataclass(slots=True)
class Outcome:
    """What a task came to, for the progress display and the summary; the measurements are the journal's."""

    task_id: str
    status: str = "unknown"
    reason: str = ""
    turns: int = 0
    tool_calls: int = 0
    completion_tokens: int = 0
    decode_tokens: int = 0
    decode_seconds: float = 0.0
    duration_seconds: float = 0.0
    confidences: list[float] = field(default_factory=list)
    unreachable: bool = False
    messages: list[Message] = field(default_factory=list)
    task: Task | None = None

    @property
    def tokens_per_second(self) -> float | None:
        return self.decode_tokens / self.decode_seconds if self.decode_seconds > 0 and self.decode_tokens else None

    @property
    def joules(self) -> float | None:
        """Known a moment after the end, where an exporter answers."""
        return None if self.task is None else self.task.joules


class Agent:
    """Works on tasks with one model. ``task_timeout`` (seconds) replaces those of the suite where given."""

    def __init__(self, run: Run, model: ChatModel, clock: Clock, task_timeout: float | None = None) -> None:
        self._run = run
        self._model = model
        self._clock = clock
        self._task_timeout = task_timeout

    def work(self, spec: Work, outcome: Outcome) -> None:
        """Fills ``outcome`` as it goes. Never raises for what the model or its server does."""
        started = self._clock.monotonic()
        with spec.stage() as stage:
            try:
                with self._run.task(spec.name, task_id=outcome.task_id, model=self._model.name) as task:
                    outcome.task_id, outcome.task = task.task_id, task
                    self._attempt(_Attempt(spec, task, stage, outcome, self._clock.monotonic()))
            except ModelError as error:
                outcome.status, outcome.reason = "error", str(error)
                outcome.unreachable = isinstance(error, ModelUnreachable)
        outcome.duration_seconds = self._clock.monotonic() - started

    def _attempt(self, attempt: _Attempt) -> None:
        timeout = self._task_timeout or attempt.spec.timeout_seconds
        deadline = Seconds(attempt.started + timeout)
        try:
            is_over = self._play(attempt, deadline)
        except CallTimeout as error:
            attempt.end("timeout", f"{timeout:g} s are over: {error}")
            return
        if not is_over:
            attempt.end("failure", attempt.outcome.reason or f"not finished after {attempt.outcome.turns} turns")
            return
        result = attempt.stage.result()
        for index, name in result.steps:
            attempt.task.key_step(index, name)
        attempt.end("success" if result.passed else "failure", result.reason)

    def _play(self, attempt: _Attempt, deadline: Seconds) -> bool:
        """Whether the stage came to its end; False where the turns were used up or the model is stuck."""
        stage = attempt.stage
        messages = stage.opening()
        attempt.task.declare_tools(tool.name for tool in stage.specs)
        attempt.outcome.messages = messages
        for _ in range(attempt.spec.max_turns):
            if self._clock.monotonic() >= deadline:
                raise CallTimeout("no time was left for another call")
            attempt.outcome.turns += 1
            reply = self._ask(attempt, messages, deadline)
            messages.append(Message("assistant", reply.text, reply.tool_calls))
            for request, confidence in zip(reply.tool_calls, _confidences(reply, stage), strict=True):
                result = attempt.use_tool(request, confidence)
                messages.append(Message("tool", result.text, tool_name=request.name or "tool call", call_id=request.call_id))
                if stage.over:
                    return True
            messages += stage.replied(reply)
            if stage.over:
                return True
            limit = attempt.spec.stuck_after
            if limit is not None and _is_stuck(messages, limit):
                attempt.outcome.reason = f"the same call {limit} times over"
                break
        return False

    def _ask(self, attempt: _Attempt, messages: Sequence[Message], deadline: Seconds) -> Reply:
        with attempt.task.call(self._model.name) as call:
            reply = self._model.reply(messages, attempt.stage.specs, call.first_token, deadline)
            call.finish(
                reply.prompt_tokens,
                reply.completion_tokens,
                prefill_seconds=reply.prefill_seconds,
                decode_seconds=reply.decode_seconds,
                decode_tokens=reply.decode_tokens,
                load_seconds=reply.load_seconds,
                cached_tokens=reply.cached_tokens,
                remote_host=reply.remote_host or None,
            )
        attempt.outcome.completion_tokens += reply.completion_tokens or 0
        if reply.decode_seconds is not None and reply.decode_tokens is not None:
            attempt.outcome.decode_seconds += reply.decode_seconds
            attempt.outcome.decode_tokens += reply.decode_tokens
        if reply.context_full:
            raise ContextFull(f"the context was full after {reply.completion_tokens} tokens of the reply")
        return reply


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One task while it is worked on."""

    spec: Work
    task: Task
    stage: Stage
    outcome: Outcome
    started: float

    def use_tool(self, request: ToolCall, confidence: CallConfidence) -> Attempt:
        arguments = request.raw_arguments if request.arguments is None else request.arguments
        with self.task.tool(request.name, arguments, confidence) as tool:
            result = self.stage.use(request)
            tool.result(result.text)
            tool.outcome(result.outcome, result.error)
        self.outcome.tool_calls += 1
        if confidence.score is not None:
            self.outcome.confidences.append(confidence.score)
        return result

    def end(self, status: str, reason: str) -> None:
        self.outcome.status, self.outcome.reason = status, reason
        if status == "success":
            self.task.succeed()
        elif status == "timeout":
            self.task.time_out(reason)
        else:
            self.task.fail(reason)


def _is_stuck(messages: Sequence[Message], limit: int) -> bool:
    """Whether the last turns are the same calls over and over: more of them would only burn time and energy."""
    turns = [
        [(call.name, call.raw_arguments) for call in message.tool_calls] for message in messages if message.role == "assistant"
    ]
    last = turns[-limit:]
    return len(last) == limit and all(turn == last[0] for turn in last)


def _confidences(reply: Reply, stage: Stage) -> list[CallConfidence]:
    declared = [tool.name for tool in stage.specs]
    return tool_call_confidences(reply.rows or (), [request.name for request in reply.tool_calls], declared)
