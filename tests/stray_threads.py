"""Every thread that tests start ends with the session; a run that leaves one fails, names it, and ends all the same.

Python waits for threads that are no daemons before it exits. One such thread, of a server that nobody shut down, would make
pytest hang after its last line.
"""

from __future__ import annotations

import os
import sys
import threading

import pytest

from joulebench.clock import wait_until

GRACE_SECONDS = 5.0
"""For threads that were asked to end and are about to."""

_before: set[int] = set()
_stray: list[threading.Thread] = []
_of_workers: list[str] = []


def stray_threads() -> list[threading.Thread]:
    """The threads that run now and did not when the session began."""
    return [thread for thread in threading.enumerate() if thread.ident not in _before and thread is not threading.main_thread()]


def describe(thread: threading.Thread) -> str:
    target = getattr(thread, "_target", None) or type(thread).run
    kind = "daemon thread" if thread.daemon else "thread"
    return f"{kind} {thread.name!r} running {getattr(target, '__module__', '?')}.{getattr(target, '__qualname__', target)}"


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart() -> None:
    _before.update(thread.ident for thread in threading.enumerate() if thread.ident is not None)


def _collect_stray_threads() -> list[str]:
    """Waits for threads that are about to end; remembers and describes the others. Fixtures are closed when this is called."""
    wait_until(lambda: not stray_threads(), GRACE_SECONDS)
    _stray.extend(stray_threads())
    return [describe(thread) for thread in _stray]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist has no terminal: it sends its stray threads to the process that has."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["stray_threads"] = _collect_stray_threads()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    _of_workers.extend(getattr(node, "workeroutput", {}).get("stray_threads", ()))


@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    # With workers, the threads of this process are those of pytest-xdist.
    names = _of_workers if config.pluginmanager.has_plugin("dsession") else _collect_stray_threads()
    session = config.pluginmanager.get_plugin("session")
    if names and session is not None and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    for name in names:
        terminalreporter.write_line(f"STRAY {name}: a test started it and did not end it", red=True)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    if any(thread.is_alive() and not thread.daemon for thread in _stray):
        session = config.pluginmanager.get_plugin("session")
        status = int(getattr(session, "exitstatus", pytest.ExitCode.TESTS_FAILED))
        sys.stdout.flush()
        sys.stderr.flush()
        # The ordinary exit would wait for the thread.
        os._exit(status or int(pytest.ExitCode.TESTS_FAILED))
