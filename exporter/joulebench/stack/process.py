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
LOG_END_LINES = 3
_WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""The programs run on this machine, where no proxy of the environment leads."""
LOG_END_CHARACTERS = 600


_given_ports: set[int] = set()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now, and that this process has not been given before."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _given_ports:
            _given_ports.add(port)
            return port


def answers(url: str, timeout: float = 1.0) -> bool:
    """Whether a GET of ``url`` gives 200."""
    try:
        with _WITHOUT_PROXY.open(url, timeout=timeout) as response:
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
    working_directory: Path | None = None
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> Program:
        """Start and wait until ``ready_url`` gives 200. Raises ProcessError."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as sink:
            try:
                self._process = subprocess.Popen(
                    self.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(self.environment or {})},
                    cwd=self.working_directory,
                    start_new_session=True,
                )
            except OSError as error:
                raise ProcessError(f"{self.name} cannot be started: {error.strerror}: {self.argv[0]}") from error
        if not wait_until(
            lambda: self._process is None or self._process.poll() is not None or answers(self.ready_url), READY_SECONDS
        ):
            self.stop()
            raise ProcessError(f"{self.name} did not answer at {self.ready_url} within {READY_SECONDS:.0f} s; {self._log_end()}")
        if not self.running:
            status = self._process.returncode if self._process else None
            raise ProcessError(f"{self.name} ended with exit status {status}; {self._log_end()}")
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

    def _log_end(self) -> str:
        """The last lines of the log that say something, in one line."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        end = " | ".join(lines[-LOG_END_LINES:])[-LOG_END_CHARACTERS:]
        return f"the end of {self.log}: {end}" if end else f"{self.log} is empty"
