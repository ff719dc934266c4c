"""The exporter as a user starts it: a process of its own on a free port."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError
from urllib.request import urlopen

COMMAND = (sys.executable, "-m", "joulebench.cli", "exporter")


@dataclass
class Exporter:
    process: subprocess.Popen[str]
    url: str = ""
    log: list[str] = field(default_factory=list)

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urlopen(self.url + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024


@contextmanager
def exporter(*flags: str, environment: Mapping[str, str] | None = None) -> Iterator[Exporter]:
    """A started exporter that says it listens; ended with SIGKILL if the test has not ended it itself."""
    argv = [*COMMAND, "--web.listen-address=127.0.0.1:0", *flags]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
    assert process.stderr is not None
    started = Exporter(process)
    try:
        for line in process.stderr:
            started.log.append(line.rstrip())
            if line.startswith("listening on "):
                started.url = line.removeprefix("listening on ").strip()
                break
        else:
            raise AssertionError(f"exit code {process.wait()}: {started.log}")
        rest = Thread(target=lambda: started.log.extend(line.rstrip() for line in process.stderr or ()))
        rest.start()
        try:
            yield started
        finally:
            process.kill()
            process.wait()
            rest.join()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def run_to_its_end(*flags: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit code and stderr of an exporter that is expected not to start."""
    env = {**os.environ, **(environment or {})}
    ended = subprocess.run([*COMMAND, *flags], capture_output=True, text=True, timeout=30, check=False, env=env)
    return ended.returncode, ended.stderr
