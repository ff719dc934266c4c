"""What every tier shares: the golden switch, and real programs on free ports.

A tier whose program is missing is skipped with the reason in the summary (see ``needs.py``).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from joulebench.stack.native import NativeStack, Ports
from tests import stray_threads
from tests.fakes.overheating import OverheatingScene
from tests.goldens_support import *  # noqa: F403
from tests.needs import need_program

TIMED = Path(__file__).parent / "e2e"
"""Its tests play scripts in seconds with real programs."""
UNTIMED = (TIMED / "test_demo_without_programs.py",)
TOGETHER = TIMED / "faults"
"""Its tests share machines, which work once for all of them."""
BEFORE = (TIMED / "test_known_joules.py",)
"""Tests that need little of the machine while the scene's programs start."""
EXACT = tuple(TIMED / f"test_{name}.py" for name in ("proxy_scraped", "outages", "no_loss", "mcpworld_range"))
"""Whatever the machine does meanwhile, their numbers are the same; so they come last, when two files are played at once."""

# A run in a test meets the programs that the test names, never those that happen to run on this machine's usual ports.
for variable in ("JOULEBENCH_PROMETHEUS_URL", "JOULEBENCH_EXPORTER_URL"):
    os.environ[variable] = "none"


@pytest.fixture
def promtool() -> Path:
    return need_program("promtool")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[NativeStack]:
    """Real Prometheus and Pushgateway with the repository's configuration, and no exporter: a test starts its own."""
    for name in ("prometheus", "pushgateway"):
        need_program(name)
    with NativeStack(tmp_path / "stack", Ports.free(), with_exporter=False, with_alertmanager=False) as running:
        yield running


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(stray_threads)
    # Started in the background of a script, everything here would ignore Ctrl-C, and so would the programs that are tested by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_itemcollected(item: pytest.Item) -> None:
    if TIMED in item.path.parents and item.path not in UNTIMED:
        item.add_marker("timed")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The scene is started by the first test and looked at by the last ones, whatever order the others have."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    if item.get_closest_marker("scene_start"):
        return 0
    if item.get_closest_marker("scene"):
        return 5
    if item.path in EXACT:
        return 4
    if item.path in BEFORE:
        return 1
    return 2 if TOGETHER in item.path.parents else 3


class FileScheduling(LoadFileScheduling):
    """A worker has the tests of a file, or of all files that share machines, one after the other."""

    def _split_scope(self, nodeid: str) -> str:
        path = str(super()._split_scope(nodeid))
        return str(TOGETHER) if TOGETHER.name in Path(path).parts else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling | None:
    return FileScheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test logged may hold half a surrogate pair; a report goes from worker to terminal as UTF-8."""
    report = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.fixture(scope="session")
def overheating(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverheatingScene]:
    """Starts when the first test asks for it. Where a program of it does not start, that fails those tests alone."""
    for name in ("prometheus", "pushgateway", "alertmanager"):
        need_program(name)
    with OverheatingScene(tmp_path_factory.mktemp("overheating")) as scene:
        yield scene
