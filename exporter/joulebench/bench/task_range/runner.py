"""The tasks of a range, one after another: monitor beside, runner in its own process, result and table rows after each.

A result is written after every task from the run's journal, which a killed runner leaves behind too. An interruption ends the
task that runs and nothing that is done; a server that no longer answers ends the range, and its task is run again next time.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from joulebench.bench.task_range.children import Child
from joulebench.bench.task_range.completed import AGAIN, DONE, FINAL, CompletedTasks
from joulebench.clients.connection import HttpClient, RequestFailed
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import Clock
from joulebench.errors import JoulebenchError
from joulebench.mcpworld.tables import SuiteRow, put_suite_rows
from joulebench.parsing import as_float, load_json
from joulebench.results.export import Options, export
from joulebench.settings import Url

COMMAND = (sys.executable, "-m", "joulebench.cli")
HEALTH_TIMEOUT_SECONDS = 3.0
CLOSING_SECONDS = 60.0
"""What a runner needs beside its task: to start, to load, to wait for its last pushes."""


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """``timeout``: seconds that the runner gives the task."""

    task_id: str
    timeout: float


@dataclass(frozen=True, slots=True)
class Paths:
    """Directories, addresses and flags of one model's run.

    ``bench``: flags of the benchmark. ``prometheus_url``: for the last export. ``health``: URL of the model server to GET.
    """

    suite: str
    suite_name: str
    run_id: str
    model: str
    runs_dir: Path
    bench: Sequence[str]
    prometheus_url: str | None
    monitor: Sequence[str] | None
    health: str | None
    kill_after: float

    @property
    def directory(self) -> Path:
        return self.runs_dir / self.run_id

    @property
    def monitor_csv(self) -> Path:
        return self.directory / "gpu_logs" / f"gpu_metrics_{self.model.replace(':', '-').replace('/', '_')}.csv"


@dataclass
class TaskRangeRunner:
    """``say``: prints a line for the user. ``interrupted``: set by a signal handler. Raises UserError where a file cannot be
    written."""

    paths: Paths
    clock: Clock
    interrupted: threading.Event
    say: Callable[[str], None]
    statuses: dict[str, str] = field(default_factory=dict)

    def run(self, tasks: Sequence[PlannedTask]) -> bool:
        """Runs the tasks that are left; returns whether every task is done now."""
        completed = CompletedTasks(self.paths.directory)
        done = completed.done()
        left = [task for task in tasks if task.task_id not in done]
        if len(left) < len(tasks):
            self.say(f"{len(tasks) - len(left)} of {len(tasks)} tasks are done already in run {self.paths.run_id}")
        for position, task in enumerate(left):
            if self.interrupted.is_set():
                break
            if not self._run_task(task, completed, first=position == 0):
                break
        if left:
            self._finish(tasks)
        return {task.task_id for task in tasks} <= completed.done()

    def _run_task(self, task: PlannedTask, completed: CompletedTasks, *, first: bool) -> bool:
        """Returns whether the range goes on."""
        trouble = self._run_in_processes(task, first)
        self._export(None)
        status, reason = self._result(task, trouble)
        if self.interrupted.is_set() and status not in FINAL:
            completed.write(task.task_id, AGAIN, status, "interrupted")
            return False
        silent = status not in ("success", "failure") and not self._server_answers()
        measured = status in (*FINAL, "error") and not silent
        completed.write(task.task_id, DONE if measured else AGAIN, status, reason)
        self.statuses[task.task_id] = status
        self.say(f"{task.task_id:<24} {status:<8} {reason}".rstrip())
        if silent:
            self.say(f"the model server at {self.paths.health} does not answer; start again once it does, to go on from here")
        return not silent

    def _run_in_processes(self, task: PlannedTask, first: bool) -> str:
        """Runs the task; returns what went wrong with its processes, empty for nothing."""
        paths = self.paths
        once = [] if first else ["--idle-seconds", "0", "--no-warm-up"]
        bench = [*COMMAND, "bench", "--suite", paths.suite, "--tasks", task.task_id, "--run-id", paths.run_id]
        bench += [
            "--runs-dir",
            str(paths.runs_dir),
            "--task-timeout",
            f"{task.timeout:g}",
            "--no-progress",
            *once,
            *paths.bench,
        ]
        limit = task.timeout + CLOSING_SECONDS + paths.kill_after
        log = paths.directory / "logs" / f"{task.task_id}.log"
        with self._monitor(), Child(bench, log, signal.SIGINT) as runner:
            code = runner.wait(limit, self.clock, self.interrupted)
            if code is None:
                return "interrupted" if self.interrupted.is_set() else f"the runner was ended after {limit:g} s"
        if code < 0:
            return f"the runner was ended by {signal.Signals(-code).name}"
        return "" if code == 0 else f"the runner ended with {code}, see {log}"

    def _monitor(self) -> Child | _NoChild:
        if self.paths.monitor is None:
            return _NoChild()
        argv = [*COMMAND, "monitor", str(self.paths.monitor_csv), *self.paths.monitor]
        return Child(argv, self.paths.directory / "logs" / "monitor.log", signal.SIGTERM)

    def _export(self, prometheus_url: str | None) -> None:
        """Exports all tasks so far. A failure is printed: the journal keeps everything for a later export."""
        api = None if prometheus_url is None else PrometheusApi(prometheus_url)
        try:
            export(Options(self.paths.run_id, self.paths.runs_dir), api, self.clock)
        except JoulebenchError as error:
            self.say(f"export: {error}")
        finally:
            if api is not None:
                api.close()

    def _result(self, task: PlannedTask, trouble: str) -> tuple[str, str]:
        """Puts the task's rows into the tables; returns their (status, reason)."""
        paths = self.paths
        row = put_suite_rows(
            SuiteRow(
                task_id=f"{paths.suite_name}/{task.task_id}",
                log_dir=str(paths.directory),
                summary=paths.directory / f"{paths.suite_name}_batch_summary.csv",
                metrics=paths.directory / f"{paths.suite_name}_metrics.csv",
                result=newest_result(paths.directory, task.task_id),
                fallback_status="error",
                fallback_reason=trouble,
            )
        )
        return row["status"], row["reason"] if not trouble or row["status"] in FINAL else trouble

    def _finish(self, tasks: Sequence[PlannedTask]) -> None:
        """Exports once more with what Prometheus has; the rows are then final."""
        if self.interrupted.is_set() or self.paths.prometheus_url is None:
            return
        self._export(self.paths.prometheus_url)
        for task in tasks:
            if task.task_id in self.statuses:
                self._result(task, "")

    def _server_answers(self) -> bool:
        if self.paths.health is None:
            return True
        client = HttpClient(Url.parse(self.paths.health, "--base-url"), HEALTH_TIMEOUT_SECONDS)
        try:
            # A server that refuses answers, too.
            client.request("GET", "")
        except RequestFailed:
            return False
        finally:
            client.close()
        return True


class _NoChild:
    def __enter__(self) -> _NoChild:
        return self

    def __exit__(self, *_: object) -> None: ...


def newest_result(directory: Path, task_id: str) -> Path | None:
    """Returns the result file of the task that began last: a task that was run again has a file for each time."""
    found: list[tuple[float, Path]] = []
    for path in directory.glob("result_*.json"):
        try:
            metadata = load_json(path.read_text(encoding="utf-8"))["metadata"]
            if metadata["task_id"] == task_id:
                found.append((as_float(metadata.get("session_start_unix")) or 0.0, path))
        except (OSError, ValueError, KeyError, TypeError):  # noqa: PERF203
            continue
    return max(found)[1] if found else None
