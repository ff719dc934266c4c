"""What every tier shares: the golden switch, and real programs on free ports.

A tier whose program is missing is skipped with the reason in the summary; on CI (``CI=true``) it fails instead, since a gate
that skips itself gates nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from joulebench.stack import programs
from joulebench.stack.native import NativeStack, Ports
from tests.fakes.overheating import OverheatingScene
from tests.goldens_support import *  # noqa: F403

# A run in a test meets the programs that the test names, never those that happen to run on this machine's usual ports.
for variable in ("JOULEBENCH_PROMETHEUS_URL", "JOULEBENCH_EXPORTER_URL"):
    os.environ[variable] = "none"


def need_program(name: str) -> Path:
    found = programs.find(name)
    if found is None:
        missing = f"{name} is not installed; scripts/ensure_programs.sh unpacks it"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return found


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


def pytest_configure() -> None:
    # Started in the background of a script, everything here would ignore Ctrl-C, and so would the programs that are tested by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A scene that plays in the background is looked at last."""
    items.sort(key=lambda item: item.get_closest_marker("scene") is not None)


@pytest.fixture(scope="session", autouse=True)
def background_scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OverheatingScene | None]:
    """Begins with the session, where a test of it is selected and its programs are there."""
    wanted = any(item.get_closest_marker("scene") for item in request.session.items)
    if not wanted or not all(programs.find(name) for name in ("prometheus", "pushgateway", "alertmanager")):
        yield None
        return
    scene = OverheatingScene(tmp_path_factory.mktemp("overheating"))
    scene.start()
    yield scene
    scene.stop()


@pytest.fixture
def overheating(background_scene: OverheatingScene | None) -> OverheatingScene:
    for name in ("prometheus", "pushgateway", "alertmanager"):
        need_program(name)
    assert background_scene is not None
    return background_scene
