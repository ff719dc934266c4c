"""Starts the client with the live hook, passes signals on to it, and notices where none of its events came through.

The client runs in our process group with our terminal. A Ctrl-C reaches it from the terminal by itself; a signal that a program
sent to us alone is passed on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from joulebench.errors import UserError
from joulebench.schema import events

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_FROM_THE_KERNEL = 0x80
"""``si_code`` SI_KERNEL: the terminal sent the signal, to the client as well."""
_STARTED = f'"event_type":"{events.TASK_START}"'.encode()


class SeenTasks:
    """The tasks that are journalled in a run from now on."""

    def __init__(self, run_directory: Path) -> None:
        self._directory = run_directory
        self._sizes = {path: path.stat().st_size for path in self._journals()}

    def any(self) -> bool:
        """Returns whether a task has begun since."""
        for path in self._journals():
            with path.open("rb") as journal:
                journal.seek(self._sizes.get(path, 0))
                if any(_STARTED in line for line in journal):
                    return True
        return False

    def _journals(self) -> list[Path]:
        return sorted(self._directory.glob(events.JOURNAL_PATTERN))


def run_client(program: str, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs the client to its end. Returns its exit code, negative for the signal that ended it. Raises UserError."""
    waited_for = {signal.SIGCHLD, *PASSED_ON}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    try:
        try:
            pid = os.posix_spawn(program, list(command), dict(environment), setsigmask=before)
        except OSError as error:
            raise UserError(f"COMMAND: {program} cannot be started ({error.strerror}); check that it is a program") from error
        while True:
            received = signal.sigwaitinfo(waited_for)
            if received.si_signo != signal.SIGCHLD:
                if received.si_code != _FROM_THE_KERNEL:
                    os.kill(pid, received.si_signo)
                continue
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended == pid:
                return os.waitstatus_to_exitcode(status)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_by(number: int) -> None:
    """Ends this process by the signal that ended the client, so that a caller sees what it would see without us."""
    if number not in (signal.SIGKILL, signal.SIGSTOP):  # These two have no handler that could be reset.
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
