"""Dashboards as Grafana's own libraries see them; `make test-ui` runs this, `make test` does not.

Threats: a unit, transformation or field option that Grafana does not know is dropped without a word; an override that matches no
field changes nothing; a link keeps its placeholder; rows of a table split. The first test compares all that is shown, text by
text, with a golden; the others draw it. Not tested: Grafana itself, and the options of the panels whose code is not published.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from joulebench.push.ids import task_key
from tests.contract.sources import DASHBOARDS, loaded
from tests.dashboard_queries import panels_of
from tests.dashboards_ui import pictures
from tests.dashboards_ui.answers import Asker
from tests.dashboards_ui.replay import RUN, STRETCH, TASK, replayed
from tests.goldens_support import Golden
from tests.needs import need_program

CHOSEN = {"api_model": "gpt-5-mini", "task_id": TASK, "task_key": task_key(TASK)}
BOARDS = [path.stem for path in DASHBOARDS]


def need(found: Path | str | None, missing: str) -> Path:
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return Path(found)


@pytest.fixture(scope="module")
def node() -> Path:
    found = need(shutil.which("node"), "Node is not installed; tests/dashboards_ui/install.sh says how")
    need(pictures.BUILT if (pictures.BUILT / "check.mjs").exists() else None, "packages are not installed; run 'make test-ui'")
    return found


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """Uid -> board and what Prometheus answers to it."""
    for name in ("prometheus", "promtool"):
        need_program(name)
    with replayed(tmp_path_factory.mktemp("replay")) as url:
        found = {}
        for path in DASHBOARDS:
            run = {"run_id": RUN} if path.stem == "llm-task" else {}
            scene = pictures.scene_of(loaded(path), Asker(url, STRETCH, {**CHOSEN, **run}), CHOSEN)
            found[path.stem] = {"board": loaded(path), "scene": scene}
        yield found


def test_every_panel_shows_what_it_should_in_grafanas_own_words(
    node: Path, scenes: dict[str, dict[str, Any]], tmp_path: Path, golden: Golden
) -> None:
    path = tmp_path / "scenes.json"
    path.write_text(json.dumps([scenes[uid] for uid in BOARDS]))
    done = subprocess.run(
        [node, pictures.BUILT / "check.mjs", path], capture_output=True, text=True, check=False, timeout=pictures.TIMEOUT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    print(report["counts"])  # noqa: T201
    assert report["problems"] == []
    assert report["counts"]["boards"] == 5
    assert report["counts"]["panels"] >= 60
    assert report["counts"]["links"] >= 12
    golden("dashboards/shown.txt", report["text"])


@pytest.mark.parametrize("uid", BOARDS)
def test_every_board_can_be_drawn(node: Path, scenes: dict[str, dict[str, Any]], tmp_path: Path, uid: str) -> None:
    browser = need(pictures.chromium(), "Chromium is not installed; tests/dashboards_ui/install.sh says how")
    board, scene = pictures.opened(scenes[uid]["board"]), scenes[uid]["scene"]
    picture = tmp_path / f"{uid}.png"
    page = pictures.shoot(browser, board, scene, picture)
    failed = re.search(r'data-failed="([^"]*)', page)
    assert failed is None, html.unescape(failed[1])[:2000]
    missing = [panel["title"] for panel in panels_of(board) if html.escape(panel["title"], quote=False) not in page]
    assert not missing, "panels without a title on the page"
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    assert (width, height > 1000) == (pictures.WIDTH, True)
    assert picture.stat().st_size > 100_000, "a page this size with less in it is blank"
    print(f"{uid}: {width} x {height}, {picture.stat().st_size // 1000} kB")  # noqa: T201
