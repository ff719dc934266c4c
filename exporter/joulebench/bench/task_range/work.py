"""The tasks of a range, one after another: monitor beside, runner in its own process, result and table rows after each.

A result is written after every task from the run's journal, which a killed runner leaves behind too. An interruption ends the
task that runs and nothing that is done; a server that no longer answers ends the range, and its task is run again next time.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from joulebench.bench.task_range.children import Child
from joulebench.bench.task_range.ledger import AGAIN, DONE, FINAL, Ledger
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import Clock
from joulebench.errors import JoulebenchError
from joulebench.mcpworld.metrics_csv import Call, collect
from joulebench.results.export import Options, export
from joulebench.results.journal import number

COMMAND = (sys.executable, "-m", "joulebench.cli")
HEALTH_TIMEOUT_SECONDS = 3.0
CLOSING_SECONDS = 60.0
"""What a runner needs beside its task: to start, to load, to wait for its last pushes."""


@dataclass(frozen=True, slots=True)
class Planned:
    """``timeout``: seconds that the runner gives the task."""

    task_id: str
    timeout: float


@dataclass(frozen=True, slots=True)
class Places:
    """Of one model's run. ``bench``: flags of the runner. ``prometheus_url``: for the last export. ``health``: to be GET from the
    model server."""

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
class Range:
    """``say``: tells the user a line. ``interrupted``: set by a signal handler. Raises UserError where nothing can be written."""

    places: Places
    clock: Clock
    interrupted: threading.Event
    say: Callable[[str], None]
    statuses: dict[str, str] = field(default_factory=dict)

    def run(self, tasks: Sequence[Planned]) -> bool:
        """Whether every task is done now."""
        ledger = Ledger(self.places.directory)
        done = ledger.done()
        left = [task for task in tasks if task.task_id not in done]
        if len(left) < len(tasks):
            self.say(f"{len(tasks) - len(left)} of {len(tasks)} tasks are done already in run {self.places.run_id}")
        for position, task in enumerate(left):
            if self.interrupted.is_set():
                break
            if not self._one(task, ledger, first=position == 0):
                break
        if left:
            self._finish(tasks)
        return {task.task_id for task in tasks} <= ledger.done()

    def _one(self, task: Planned, ledger: Ledger, *, first: bool) -> bool:
        """Whether the range goes on."""
        trouble = self._work(task, first)
        self._export(None)
        status, reason = self._result(task, trouble)
        if self.interrupted.is_set() and status not in FINAL:
            ledger.write(task.task_id, AGAIN, status, "interrupted")
            return False
        silent = status not in ("success", "failure") and not self._server_answers()
        measured = status in (*FINAL, "error") and not silent
        ledger.write(task.task_id, DONE if measured else AGAIN, status, reason)
        self.statuses[task.task_id] = status
        self.say(f"{task.task_id:<24} {status:<8} {reason}".rstrip())
        if silent:
            self.say(f"the model server at {self.places.health} does not answer; start again once it does, to go on from here")
        return not silent

    def _work(self, task: Planned, first: bool) -> str:
        """Runs it; what went wrong around it, empty for nothing."""
        places = self.places
        once = [] if first else ["--idle-seconds", "0", "--no-warm-up"]
        bench = [*COMMAND, "bench", "--suite", places.suite, "--tasks", task.task_id, "--run-id", places.run_id]
        bench += [
            "--runs-dir",
            str(places.runs_dir),
            "--task-timeout",
            f"{task.timeout:g}",
            "--no-progress",
            *once,
            *places.bench,
        ]
        limit = task.timeout + CLOSING_SECONDS + places.kill_after
        log = places.directory / "logs" / f"{task.task_id}.log"
        with self._monitor(), Child(bench, log, signal.SIGINT) as runner:
            code = runner.wait(limit, self.clock, self.interrupted)
            if code is None:
                return "interrupted" if self.interrupted.is_set() else f"the runner was ended after {limit:g} s"
        if code < 0:
            return f"the runner was ended by {signal.Signals(-code).name}"
        return "" if code == 0 else f"the runner ended with {code}, see {log}"

    def _monitor(self) -> Child | _NoChild:
        if self.places.monitor is None:
            return _NoChild()
        argv = [*COMMAND, "monitor", str(self.places.monitor_csv), *self.places.monitor]
        return Child(argv, self.places.directory / "logs" / "monitor.log", signal.SIGTERM)

    def _export(self, prometheus_url: str | None) -> None:
        """Results of all tasks so far. What goes wrong is told: the journal keeps everything for a later export."""
        api = None if prometheus_url is None else PrometheusApi(prometheus_url)
        try:
            export(Options(self.places.run_id, self.places.runs_dir), api, self.clock)
        except JoulebenchError as error:
            self.say(f"export: {error}")
        finally:
            if api is not None:
                api.close()

    def _result(self, task: Planned, trouble: str) -> tuple[str, str]:
        """Puts the task's rows into the tables; (status, reason) as they have it."""
        places = self.places
        row = collect(
            Call(
                task_id=f"{places.suite_name}/{task.task_id}",
                log_dir=str(places.directory),
                summary=places.directory / f"{places.suite_name}_batch_summary.csv",
                metrics=places.directory / f"{places.suite_name}_metrics.csv",
                result=newest_result(places.directory, task.task_id),
                fallback_status="error",
                fallback_reason=trouble,
            )
        )
        return row["status"], row["reason"] if not trouble or row["status"] in FINAL else trouble

    def _finish(self, tasks: Sequence[Planned]) -> None:
        """With what Prometheus knows; the rows are then the final ones."""
        if self.interrupted.is_set() or self.places.prometheus_url is None:
            return
        self._export(self.places.prometheus_url)
        for task in tasks:
            if task.task_id in self.statuses:
                self._result(task, "")

    def _server_answers(self) -> bool:
        if self.places.health is None:
            return True
        try:
            with urllib.request.urlopen(self.places.health, timeout=HEALTH_TIMEOUT_SECONDS):
                return True
        except urllib.error.HTTPError:
            # It refuses, so it answers.
            return True
        except (OSError, ValueError):
            return False


class _NoChild:
    def __enter__(self) -> _NoChild:
        return self

    def __exit__(self, *_: object) -> None: ...


def newest_result(directory: Path, task_id: str) -> Path | None:
    """The result file of the task that began last: a task that was run again has one for each time."""
    found: list[tuple[float, Path]] = []
    for path in directory.glob("result_*.json"):
        try:
            metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
            if metadata["task_id"] == task_id:
                found.append((number(metadata.get("session_start_unix")) or 0.0, path))
        except (OSError, ValueError, KeyError, TypeError):  # noqa: PERF203
            continue
    return max(found)[1] if found else None
