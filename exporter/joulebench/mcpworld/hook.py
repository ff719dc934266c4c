"""The live hook for the MCPWorld evaluator: two lines in its ``result_collector.py``, and none with ``joulebench run``.

    from joulebench.mcpworld.hook import attach

    attach(ResultCollector)

Every event that the evaluator records then also becomes our run, task, call and tool. Nothing that goes wrong here reaches the
evaluator: it is logged once, and the benchmark goes on without us.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import joulebench
from joulebench import settings
from joulebench.files import write_atomic
from joulebench.mcpworld.replay import ReplayClock, TaskReplay
from joulebench.parsing import as_dict, as_float, as_name
from joulebench.push.run import Run
from joulebench.schema.client_identity import UNKNOWN, ClientIdentity, identify
from joulebench.supervise import BackgroundLoop, import_in_background

log = logging.getLogger(__name__)

DRAIN_SECONDS = 0.4
"""How long the end of the evaluator's process waits for the last energies and pushes; Prometheus has the rest of them anyway."""
LOAD_SECONDS = 5.0
"""Longest wait at the end for modules that are still being loaded: of a task of less than a second on a busy machine."""
LATE_SECONDS = 3600.0
"""An event that says it happened longer ago, or this far ahead, is taken to happen now."""
SESSION_KEYS = ("infrastructure_tag", "temperature", "available_tools")
CONFIG_KEYS = ("task_id", "task_name", "description", "total_key_steps", "exec_mode")
"""Of the task's configuration; the rest of it may be long and hold secrets."""
_MARK = "_joulebench_hook"


class Hook:
    """The run of this process, opened with its first task and closed with the process. Events may come from any thread."""

    def __init__(self, run: Run, clock: ReplayClock) -> None:
        self._run = run
        self._clock = clock
        self._lock = threading.RLock()
        self._tasks: dict[str, TaskReplay] = {}
        self._opened = self._closed = self._broken = False
        self._imports = BackgroundLoop("imports", _load_for_background)
        self.sessions: object = None
        """``results`` of the evaluator's collector: the sessions by task id."""

    @property
    def run_id(self) -> str:
        return self._run.run_id

    def event(self, task_id: object, event_type: object, data: object = None) -> None:
        """As the evaluator's ``record_event``. Never raises."""
        self._safely(lambda: self._event(str(task_id), event_type, data if isinstance(data, Mapping) else {}))

    def session_over(self, task_id: object = None) -> None:
        """The evaluator is done with the task, or with all. Never raises."""
        now = self._clock.real.unix()
        self._safely(lambda: self._end(None if task_id is None else str(task_id), now))

    def close(self) -> None:
        """Ends what is open and waits a moment for the last pushes. Never raises."""
        self._safely(self._close)

    def _event(self, task_id: str, event_type: object, data: Mapping[str, Any]) -> None:
        kind = str(getattr(event_type, "name", event_type)).rpartition(".")[2].upper()
        now = self._clock.real.unix()
        reported = as_float(data.get("timestamp"))
        at = reported if reported is not None and abs(now - reported) <= LATE_SECONDS else now
        if kind == "TASK_START":
            self._begin(task_id, at)
        elif task_id in self._tasks:
            self._tasks[task_id].event(kind, at, data)

    def _begin(self, task_id: str, at: float) -> None:
        if self._closed:
            return
        if not self._opened:
            # What the end of the task needs is loaded while the task runs.
            self._imports.start()
            self._run.__enter__()
            self._opened = True
            atexit.register(self.close)
        self._end(task_id)
        metadata = self._metadata(task_id)
        identity = identify(metadata, task_id=task_id)
        task = self._run.task(
            as_name(as_dict(metadata.get("task_config_at_start")).get("task_name")) or identity.task,
            task_id=identity.task_key,
            model=None if identity.model == UNKNOWN else identity.model,
            metadata=_metadata_to_keep(metadata, identity),
        )
        # The evaluator reports its calls as events.
        task.records_clients = False
        self._tasks[task_id] = TaskReplay(task, self._clock, at)
        self._write_task_file({"run_id": self._run.run_id, "task_id": task.task_id})

    def _metadata(self, task_id: str) -> Mapping[str, object]:
        """Returns what the evaluator's collector knows of the session, as its result file will have it."""
        session = as_dict(self.sessions).get(task_id)
        return as_dict(as_dict(session).get("metadata"))

    def _end(self, task_id: str | None, session_end: float | None = None) -> None:
        for name in [task_id] if task_id is not None else list(self._tasks):
            task = self._tasks.get(name)
            if task is not None and not task.ended:
                task.end(session_end)
                self._write_task_file({})

    def _write_task_file(self, names: Mapping[str, str]) -> None:
        """Tells ``joulebench proxy --task-file`` which task runs, where such a file was asked for."""
        path = os.environ.get(settings.ENV_TASK_FILE)
        if path:
            write_atomic(Path(path), json.dumps(names), option="--task-file")

    def _close(self) -> None:
        self._end(None)
        if self._opened and not self._closed:
            self._closed = True
            # The time to drain is for requests alone.
            self._imports.join(LOAD_SECONDS)
            self._run.__exit__(None, None, None)

    def _safely(self, action: Callable[[], None]) -> None:
        try:
            with self._lock:
                action()
        except Exception:
            if not self._broken:
                log.exception(
                    "joulebench could not take an event of the evaluator; the benchmark goes on without its measurement"
                )
            self._broken = True


def _load_for_background() -> None:
    for module in joulebench.LOADED_WITH_RUN:
        import_in_background(module)


def _metadata_to_keep(metadata: Mapping[str, object], identity: ClientIdentity) -> dict[str, object]:
    """Returns what the result file is to say of the task, under the client's keys."""
    config = as_dict(metadata.get("task_config_at_start"))
    kept: dict[str, object] = {name: metadata[name] for name in SESSION_KEYS if metadata.get(name) not in (None, "")}
    kept.setdefault("infrastructure_tag", os.environ.get(settings.ENV_INFRASTRUCTURE) or None)
    kept.setdefault("temperature", _temperature())
    kept["application"] = None if identity.application == UNKNOWN else identity.application
    kept["task_config_at_start"] = {name: config[name] for name in CONFIG_KEYS if name in config} | {
        "application_info": {"name": as_dict(config.get("application_info")).get("name")}
    }
    return {name: value for name, value in kept.items() if value is not None}


def _temperature() -> float | None:
    """Returns the client's own setting, which it reads from the environment."""
    try:
        return as_float(float(os.environ.get("LLM_TEMPERATURE", "")))
    except ValueError:
        return None


def attach(
    collector: Any,
    *,
    run_id: str | None = None,
    model: str | None = None,
    suite: str | None = None,
    gateway_url: str | None = None,
    prometheus_url: str | None = None,
    exporter_url: str | None = None,
    runs_dir: str | os.PathLike[str] | None = None,
    clock: ReplayClock | None = None,
) -> Hook | None:
    """Wraps ``record_event`` of the evaluator's collector, its class or one object of it, and the ends of its sessions.

    What is not given comes from the environment: ``JOULEBENCH_RUN_ID`` (by it, tasks that run as processes of their own share a
    run), ``JOULEBENCH_SUITE``, ``MODEL`` as the evaluator itself reads it, and the addresses as in ``Run``. Attached twice, the
    first hook stays. None, with a line in the log, where the hook cannot be made.
    """
    known: Hook | None = getattr(collector, _MARK, None)
    if known is not None:
        return known
    clock = clock or ReplayClock()
    try:
        run = Run(
            model or os.environ.get("MODEL"),
            suite or settings.from_env(settings.ENV_SUITE, "mcpworld"),
            run_id=run_id or os.environ.get(settings.ENV_RUN_ID) or None,
            gateway_url=gateway_url,
            prometheus_url=prometheus_url,
            exporter_url=exporter_url,
            runs_dir=runs_dir,
            clock=clock,
            drain_seconds=DRAIN_SECONDS,
        )
        hook = Hook(run, clock)
        _wrap(collector, hook, "record_event", hook.event, first=False)
    except Exception:
        log.exception("joulebench is not attached; the benchmark goes on without its measurement")
        return None
    for name in ("end_session", "save_results"):
        if callable(getattr(collector, name, None)):
            _wrap(collector, hook, name, hook.session_over, first=True)
    setattr(collector, _MARK, hook)
    return hook


def _wrap(collector: Any, hook: Hook, name: str, listener: Callable[..., None], *, first: bool) -> None:
    """``first``: the listener is called before the original; else after it, so for nothing that the original refuses."""
    original = getattr(collector, name)
    is_class = isinstance(collector, type)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        arguments = _listener_arguments(listener, args[1:] if is_class else args, kwargs)
        hook.sessions = getattr(args[0] if is_class else collector, "results", None)
        if first:
            listener(*arguments)
        answer = original(*args, **kwargs)
        if not first:
            listener(*arguments)
        return answer

    setattr(collector, name, wrapped)


def _listener_arguments(listener: Callable[..., None], given: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns the arguments that the listener takes, by place or by the evaluator's names of them."""
    names = ("task_id", "event_type", "data")[: 3 if listener.__name__ == "event" else 1]
    rest = [kwargs[name] for name in names[len(given) :] if name in kwargs]
    return (*given[: len(names)], *rest)
