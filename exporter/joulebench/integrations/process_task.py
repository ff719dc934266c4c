"""The run of a process that opened none, and its task: from the first LLM call to the end of the process.

The run is that of the environment (``JOULEBENCH_RUN_ID``), so that processes of one benchmark share it. The task is named after
the script. It has no verdict, and the status ``error`` where an exception ends the process.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from multiprocessing import util as multiprocessing_util

from joulebench import settings
from joulebench.devices import ENV_SERVER
from joulebench.errors import UserError
from joulebench.push.ids import path_part
from joulebench.push.run import Run
from joulebench.push.task import Task

log = logging.getLogger(__name__)

DRAIN_SECONDS = 1.0
"""How long the end of the process waits for the last energies and pushes at most; Prometheus has the rest of them anyway."""


class ProcessTasks:
    """The task of this process, and of each process that is forked off it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._run: Run | None = None
        self._task: Task | None = None
        self._closed = False

    def owns(self, run: Run) -> bool:
        return run is self._run

    def has(self, task: Task) -> bool:
        return task is self._task

    def task(self, model: str, server: object = None) -> Task | None:
        """The task, opened where it is not; None at the end of the process. ``model``, ``server``: those of the first call."""
        if self._pid != os.getpid():
            # Another thread of the parent may have had the lock at the fork. A forked process starts with a single thread.
            self._lock, self._pid, self._task, self._closed = threading.Lock(), os.getpid(), None, False
        with self._lock:
            if self._task is None and not self._closed:
                self._task = self._open(model, str(server or ""))
            return None if self._closed else self._task

    def close(self) -> None:
        with self._lock:
            if self._closed or self._task is None or self._pid != os.getpid():
                return
            self._closed = True
            # At an interactive prompt the process went on after it.
            error = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)
            if isinstance(error, BaseException):
                self._task.__exit__(type(error), error, None)
            else:
                self._task.__exit__(None, None, None)
            if self._run is not None:
                self._run.__exit__(None, None, None)

    def _open(self, model: str, server: str) -> Task:
        if self._run is None:
            self._run = _new_run(model, server)
            self._run.__enter__()
        task = self._run.task(_script_name())
        task.__enter__()
        # multiprocessing ends its children without atexit before Python 3.13; the run of a forked process closes after it.
        multiprocessing_util.Finalize(self, self.close, exitpriority=20)
        atexit.register(self.close)
        return task


def _new_run(model: str, server: str) -> Run:
    run_id = os.environ.get(settings.ENV_RUN_ID)

    def run(server: str | None) -> Run:
        return Run(
            model,
            suite=settings.from_env(settings.ENV_SUITE, ""),
            run_id=path_part(run_id, settings.ENV_RUN_ID) if run_id else None,
            server=server,
            drain_seconds=DRAIN_SECONDS,
        )

    if os.environ.get(ENV_SERVER, "").strip() or not server.startswith("http"):
        return run(None)
    try:
        return run(server)
    except UserError:
        # An address that only the client can read.
        return run(None)


def _script_name() -> str:
    """Name of the script or module that this process runs."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name.removesuffix(".__main__"))
    name = os.path.basename(sys.argv[0]) if sys.argv else ""
    return "python -c" if name == "-c" else name or "python"
