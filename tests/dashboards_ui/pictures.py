"""Pictures of dashboards: answers of a Prometheus, drawn by the preview in headless Chromium.

    python -m tests.dashboards_ui.pictures --prometheus-url URL --start UNIX --end UNIX --task TASK_ID

writes dashboards/screenshots/<uid>.png, and of the live board its first screen, which the README shows. `--only UID` and
`--height PIXELS` draw one board, cut off below.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from joulebench.push.ids import task_key
from tests.dashboard_queries import panels_of
from tests.dashboards_ui.answers import Asker, Stretch

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / ".build/dashboards-ui/out"
WIDTH = 1600
CELL = 38
HEAD = 130
FIRST_SCREEN = {"llm-live": 1166}
"""Pixels from the top of a board to where its first screen ends, a row of panels cut so that one sees that it goes on."""
TIMEOUT = 300
NOTE = "preview drawn with Grafana's components · GPUs, watts and joules are simulated"


def chromium() -> Path | None:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return Path(found)
    return None


def opened(board: Mapping[str, Any]) -> dict[str, Any]:
    """The board with its collapsed rows opened, so that every panel is drawn."""
    panels = []
    for panel in board["panels"]:
        panels.append({**panel, "collapsed": False, "panels": []} if panel["type"] == "row" else panel)
        panels += panel.get("panels", [])
    return {**board, "panels": panels}


def scene_of(board: Mapping[str, Any], asker: Asker, chosen: Mapping[str, str]) -> dict[str, Any]:
    """``chosen``: text of the variables on top, where it is not the default's."""
    return {**asker.board(board), "chosen": dict(chosen)}


def shoot(browser: Path, board: Mapping[str, Any], scene: Mapping[str, Any], picture: Path, height: int | None = None) -> str:
    """Draws the board into ``picture`` and gives the page as text: its DOM after all has been drawn."""
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels_of(board))
    height = height or HEAD + bottom * CELL
    shown = {"board": board, "scene": scene, "width": WIDTH, "height": height, "note": NOTE}
    shutil.copy(Path(__file__).with_name("preview.html"), BUILT)
    # "</" inside a string would end the script element where this file is inlined; as a file of its own it is only data.
    (BUILT / "scene.js").write_text(f"window.SCENE = {json.dumps(shown)};", encoding="utf-8")
    common = [
        *(str(browser), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-color-profile=srgb"),
        *(f"--window-size={WIDTH},{height}", "--virtual-time-budget=15000", "--run-all-compositor-stages-before-draw"),
    ]
    page = (BUILT / "preview.html").as_uri()
    picture.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([*common, f"--screenshot={picture}", page], check=True, capture_output=True, timeout=TIMEOUT)
    done = subprocess.run([*common, "--dump-dom", page], check=True, capture_output=True, text=True, timeout=TIMEOUT)
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prometheus-url", required=True)
    parser.add_argument("--start", type=float, required=True)
    parser.add_argument("--end", type=float, required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--run", default=".+")
    parser.add_argument("--api-model", default="gpt-5-mini")
    parser.add_argument("--only")
    parser.add_argument("--height", type=int)
    parser.add_argument("--out", type=Path, default=ROOT / "dashboards/screenshots")
    args = parser.parse_args()
    browser = chromium()
    if browser is None:
        parser.error("no Chromium on PATH; on Debian: apt-get install chromium")
    chosen = {"api_model": args.api_model}
    for path in sorted((ROOT / "dashboards").glob("*.json")):
        if args.only in (None, path.stem):
            board = opened(json.loads(path.read_text(encoding="utf-8")))
            variables = {**chosen, "task_id": args.task, "task_key": task_key(args.task), "run_id": args.run}
            asker = Asker(args.prometheus_url, Stretch(int(args.start), int(args.end)), variables)
            one = {"task_key": task_key(args.task), "run_id": args.run} if path.stem == "llm-task" else {}
            scene = scene_of(board, asker, {**chosen, **one})
            if path.stem in FIRST_SCREEN:
                shoot(browser, board, scene, args.out / f"{path.stem}-top.png", FIRST_SCREEN[path.stem])
            page = shoot(browser, board, scene, args.out / f"{path.stem}.png", args.height)
            failed = re.search(r'data-failed="([^"]*)', page)
            if failed:
                parser.exit(1, f"{path.stem}: {html.unescape(failed[1])[:2000]}")
            print(f"drew {args.out / path.stem}.png")  # noqa: T201


if __name__ == "__main__":
    main()
