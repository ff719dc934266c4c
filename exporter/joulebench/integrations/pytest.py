"""Plugin of pytest: ``pytest --joulebench`` makes each test a task, with the calls of instrumented clients in it and its verdict.

``JOULEBENCH_INSTRUMENT=1``, which ``joulebench run`` sets, does the same. Nothing is loaded or changed without either. Under
``pytest-xdist`` each worker is a worker of the same run.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from joulebench.push.run import Run
    from joulebench.push.task import Task

DRAIN_SECONDS = 2.0
MAX_REASON_CHARACTERS = 300


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("joulebench")
    group.addoption("--joulebench", action="store_true", help="measure each test as a task: energy, tokens, confidence")
    group.addoption("--joulebench-model", metavar="NAME", default="", help="model that the tests ask, for the results")


def pytest_configure(config: pytest.Config) -> None:
    # As joulebench.settings.ENV_INSTRUMENT, which would be loaded for every pytest.
    if config.getoption("--joulebench") or os.environ.get("JOULEBENCH_INSTRUMENT") == "1":
        config.pluginmanager.register(_Recorder(config), "joulebench-recorder")


class _Recorder:
    def __init__(self, config: pytest.Config) -> None:
        from joulebench.clock import SystemClock
        from joulebench.integrations.instrument import instrument
        from joulebench.push import ids
        from joulebench.push.run import Run
        from joulebench.settings import ENV_RUN_ID, ENV_SUITE

        # Processes of pytest-xdist inherit it.
        run_id = os.environ.setdefault(ENV_RUN_ID, ids.new_run_id(SystemClock().unix()))
        self._run: Run = Run(
            config.getoption("--joulebench-model"),
            suite=os.environ.get(ENV_SUITE, "pytest"),
            run_id=run_id,
            # A test that opens a Run of its own is another worker of the same process.
            worker=f"pytest-{ids.default_worker()}"[:100],
            drain_seconds=DRAIN_SECONDS,
        )
        self._is_worker = hasattr(config, "workerinput")
        self._task: Task | None = None
        instrument()

    def pytest_sessionstart(self) -> None:
        self._run.__enter__()

    def pytest_sessionfinish(self) -> None:
        self._run.__exit__(None, None, None)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        with self._run.task(item.nodeid) as task:
            self._task = task
            try:
                return (yield)
            finally:
                self._task = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if self._task is not None:
            reason = str(getattr(report.longrepr, "reprcrash", None) or "")[:MAX_REASON_CHARACTERS]
            if report.failed:
                self._task.fail(f"{report.when}: {reason}")
            elif report.passed and report.when == "call":
                self._task.succeed()
        return report

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._is_worker:
            terminalreporter.write_line(f"joulebench export --run-id {self._run.run_id}")
