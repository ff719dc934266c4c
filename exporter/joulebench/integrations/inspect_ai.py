"""Hook of Inspect: each sample is a task with its model and tool calls, and the verdict of its first scorer.

    from joulebench.integrations import inspect_ai

Importing it is enough. Samples belong to the open ``Run`` of the process, else to one of their own by the environment
(``JOULEBENCH_RUN_ID``). Calls come from Inspect's events, whichever provider it asks; they have no time to first token.
"""

from __future__ import annotations

import logging
import os
from datetime import datetime

from inspect_ai.event import ModelEvent, ToolEvent
from inspect_ai.hooks import Hooks, RunEnd, RunStart, SampleEnd, SampleEvent, SampleStart, TaskStart, hooks
from inspect_ai.log import EvalSample
from inspect_ai.scorer import value_to_float

from joulebench import settings
from joulebench.push import current
from joulebench.push.run import Run
from joulebench.push.task import Task

log = logging.getLogger(__name__)

DRAIN_SECONDS = 2.0
FULL_SCORE = 1.0


@hooks(name="joulebench", description="Energy, tokens and confidence of each sample.")
class JoulebenchHooks(Hooks):
    """``run_id``: of the last run that was recorded."""

    def __init__(self) -> None:
        self.run_id = ""
        self._run: Run | None = None
        self._own: Run | None = None
        self._names: dict[str, tuple[str, str]] = {}
        self._tasks: dict[str, Task] = {}
        self._seen: set[str] = set()

    async def on_run_start(self, data: RunStart) -> None:
        runs = current.open_runs()
        self._run = runs[-1] if runs else None
        if self._run is None:
            self._own = Run(run_id=os.environ.get(settings.ENV_RUN_ID) or None, drain_seconds=DRAIN_SECONDS)
            self._run = self._own.__enter__()
        self.run_id = self._run.run_id

    async def on_run_end(self, data: RunEnd) -> None:
        for task in self._tasks.values():
            task.__exit__(None, None, None)
        self._tasks, self._names, self._seen, self._run = {}, {}, set(), None
        own, self._own = self._own, None
        if own is not None:
            own.__exit__(None, None, None)
            log.info("joulebench export --run-id %s", own.run_id)

    async def on_task_start(self, data: TaskStart) -> None:
        self._names[data.eval_id] = (data.spec.task, _model_name(data.spec.model))

    async def on_sample_start(self, data: SampleStart) -> None:
        if self._run is None:
            return
        eval_name, model = self._names.get(data.eval_id, ("inspect", ""))
        task = self._run.task(f"{eval_name}/{data.summary.id}", model=model)
        # The events of the sample have its calls.
        task.records_clients = False
        task.__enter__()
        self._tasks[data.sample_id] = task

    async def on_sample_event(self, data: SampleEvent) -> None:
        task, event = self._tasks.get(data.sample_id), data.event
        if task is None or event.pending or (event.uuid or "") in self._seen:
            return
        if isinstance(event, ModelEvent) and event.cache != "read":
            _add_call(task, event)
        elif isinstance(event, ToolEvent):
            _add_tool(task, event)
        else:
            return
        self._seen.add(event.uuid or "")

    async def on_sample_end(self, data: SampleEnd) -> None:
        task = self._tasks.pop(data.sample_id, None)
        if task is None:
            return
        if data.sample.error is not None:
            error = RuntimeError(data.sample.error.message)
            task.__exit__(RuntimeError, error, None)
            return
        _judge(task, data.sample)
        task.__exit__(None, None, None)


def _add_call(task: Task, event: ModelEvent) -> None:
    usage = event.output.usage
    cached = None if usage is None else usage.input_tokens_cache_read
    task.add_call(
        event.timestamp.timestamp(),
        _end(event.timestamp, event.completed),
        model=_model_name(event.model),
        response=None if event.call is None else event.call.response,
        tools=[tool.name for tool in event.tools],
        error=event.error,
        # Inspect counts what came from the cache beside the rest.
        prompt_tokens=None if usage is None else usage.input_tokens + (cached or 0),
        cached_tokens=cached,
        completion_tokens=None if usage is None else usage.output_tokens,
    )


def _add_tool(task: Task, event: ToolEvent) -> None:
    failed = event.error is not None or bool(event.failed)
    task.add_tool(
        event.function,
        event.arguments,
        start=event.timestamp.timestamp(),
        end=_end(event.timestamp, event.completed),
        outcome="tool_error" if failed else "ok",
        error=event.error.message if event.error is not None else "",
        result=str(event.result),
    )


def _model_name(name: str) -> str:
    """``provider/model`` without the provider; an OpenAI-compatible server has a name of its own behind it."""
    provider, _, model = name.partition("/")
    return (model.partition("/")[2] if provider == "openai-api" else model) or name


def _end(start: datetime, completed: datetime | None) -> float:
    return max(start, completed or start).timestamp()


def _judge(task: Task, sample: EvalSample) -> None:
    """The first scorer decides: the full score is a success, less is a failure; without a score there is no verdict."""
    if sample.limit is not None and sample.limit.type in ("time", "working"):
        task.time_out(f"{sample.limit.type} limit")
        return
    for name, score in (sample.scores or {}).items():
        if value_to_float()(score.value) >= FULL_SCORE:
            task.succeed(f"{name}: {score.value}")
        else:
            task.fail(f"{name}: {score.value}")
        return
