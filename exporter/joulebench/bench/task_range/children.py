"""Processes that are started for a task and ended with it: gently first, whole groups, and also where we are killed ourselves.

Only what was started here is ever ended. The kernel is asked to end a child whose parent dies, so that even SIGKILL leaves
nothing. A child that has ended is not reaped before its group is: until then its number cannot become anybody else's.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from joulebench.clock import Clock, wait_until

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
POLL_SECONDS = 0.05
GRACE_SECONDS = 10.0


class Child:
    """Runs from ``__enter__`` on, in a session of its own: a Ctrl-C at the terminal reaches us alone, and we decide."""

    def __init__(
        self, argv: Sequence[str], log: Path, gentle: signal.Signals, environment: Mapping[str, str] | None = None
    ) -> None:
        self._argv = argv
        self._log = log
        self._gentle = gentle
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Child:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()

        def with_parent() -> None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, int(self._gentle))
            if os.getppid() != parent:
                os._exit(1)

        with self._log.open("ab") as sink:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=with_parent,  # noqa: PLW1509 - no thread of ours runs when children start
                env=None if self._environment is None else {**os.environ, **self._environment},
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        process = self._running()
        if process.returncode is not None:
            return process.returncode
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def wait(self, seconds: float, clock: Clock, interrupted: threading.Event) -> int | None:
        """Its exit code; None after ``seconds``, or once ``interrupted``."""
        deadline = clock.monotonic() + seconds
        while self.exit_code is None and not interrupted.is_set() and clock.monotonic() < deadline:
            interrupted.wait(POLL_SECONDS)
        return self.exit_code

    def end(self, grace: float = GRACE_SECONDS) -> None:
        """The gentle signal, then SIGTERM, then SIGKILL to all of its group; returns when it is gone."""
        process = self._running()
        if process.returncode is not None:
            return
        for number, patience in ((self._gentle, grace), (signal.SIGTERM, grace / 2)):
            if self.exit_code is None:
                self._signal(number)
                wait_until(lambda: self.exit_code is not None, patience)
        # What it left behind in its group is ended here: nothing else would.
        self._signal(signal.SIGKILL)
        process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._running().pid, number)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the child was not started")
        return self._process
