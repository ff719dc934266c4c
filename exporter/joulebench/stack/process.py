"""One outside program: started in its own session, watched until it answers, ended with everything it started.

A program that dies before it is ready raises ``ProcessError`` with the end of its log; nothing is ever left running by a
``with`` block, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from joulebench.clock import wait_until
from joulebench.errors import ProcessError

READY_SECONDS = 30.0
STOP_SECONDS = 10.0


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str, timeout: float = 1.0) -> bool:
    """Whether a GET of ``url`` gives 200."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


@dataclass
class Program:
    name: str
    argv: Sequence[str]
    log: Path
    ready_url: str
    environment: Mapping[str, str] | None = None
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> Program:
        """Start and wait until ``ready_url`` gives 200. Raises ProcessError."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(self.environment or {})},
                start_new_session=True,
            )
        if not wait_until(
            lambda: self._process is None or self._process.poll() is not None or answers(self.ready_url), READY_SECONDS
        ):
            self.stop()
            raise ProcessError(
                f"{self.name} did not answer at {self.ready_url} within {READY_SECONDS:.0f} s; its log is {self.log}"
            )
        if not self.running:
            raise ProcessError(f"{self.name} ended at once; the end of {self.log}:\n{self._log_tail()}")
        return self

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ProcessError(f"{self.name} was not started")
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self._signal(signal.SIGKILL)
        self._reap()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for what is still there after a while."""
        self._signal(signal.SIGTERM)
        try:
            if self._process is not None:
                self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def _signal(self, number: int) -> None:
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()

    def _log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])
