"""Callback of LiteLLM: its calls, in the open task of their context.

    logger = JoulebenchLogger()
    litellm.callbacks = [logger]

LiteLLM calls back in threads, or in the event loop, after it has returned; ``flush`` and ``aflush`` wait for it and belong at
the end of a task: a call that is reported after its task has ended is not recorded.
``joulebench.instrument()`` needs no such wait. Where that records litellm, the callback does nothing.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from joulebench.integrations.instrument import is_instrumented
from joulebench.parsing import as_list, as_text
from joulebench.push import current
from joulebench.push.task import Task

log = logging.getLogger(__name__)

LOOK_EVERY = 0.01


class JoulebenchLogger(CustomLogger):
    """Records each call once, by LiteLLM's id of it."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._tasks: dict[str, Task] = {}

    def flush(self, timeout: float = 5.0) -> bool:
        """Waits until LiteLLM has reported the calls that began, for at most ``timeout`` seconds. Returns whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._tasks, timeout)

    async def aflush(self, timeout: float = 5.0) -> bool:
        """``flush`` for coroutines, in whose loop LiteLLM reports."""
        for _ in range(max(1, round(timeout / LOOK_EVERY))):
            if self.flush(0.0):
                return True
            await asyncio.sleep(LOOK_EVERY)
        return self.flush(0.0)

    def log_pre_api_call(self, model: Any, messages: Any, kwargs: Mapping[str, Any]) -> None:
        task = current.current_task()
        if task is not None and task.records_clients and not current.records_itself() and not is_instrumented("litellm.main"):
            with self._changed:
                self._tasks[_call_id(kwargs)] = task

    def log_success_event(self, kwargs: Mapping[str, Any], response_obj: Any, start_time: Any, end_time: Any) -> None:
        self._record(kwargs, response_obj, start_time, end_time, None)

    async def async_log_success_event(self, kwargs: Mapping[str, Any], response_obj: Any, start_time: Any, end_time: Any) -> None:
        self._record(kwargs, response_obj, start_time, end_time, None)

    def log_failure_event(self, kwargs: Mapping[str, Any], response_obj: Any, start_time: Any, end_time: Any) -> None:
        self._record(kwargs, None, start_time, end_time, str(kwargs.get("exception") or "failed"))

    async def async_log_failure_event(self, kwargs: Mapping[str, Any], response_obj: Any, start_time: Any, end_time: Any) -> None:
        self._record(kwargs, None, start_time, end_time, str(kwargs.get("exception") or "failed"))

    def _record(self, kwargs: Mapping[str, Any], response: Any, start: Any, end: Any, error: str | None) -> None:
        with self._changed:
            task = self._tasks.get(_call_id(kwargs))
        if task is None or not isinstance(start, datetime) or not isinstance(end, datetime):
            return
        if task.ended:
            log.warning("litellm reported a call after the end of its task %r, unrecorded; call flush() before it", task.task_id)
            return
        first = kwargs.get("completion_start_time") if kwargs.get("stream") else None
        task.add_call(
            start.timestamp(),
            end.timestamp(),
            model=as_text(kwargs.get("model")),
            first_token=first.timestamp() if isinstance(first, datetime) else None,
            response=response,
            tools=as_list((kwargs.get("optional_params") or {}).get("tools")),
            error=error,
        )
        with self._changed:
            self._tasks.pop(_call_id(kwargs), None)
            self._changed.notify_all()


def _call_id(kwargs: Mapping[str, Any]) -> str:
    return as_text(kwargs.get("litellm_call_id"))
