#!/usr/bin/env python3
"""Write dashboards/*.json from the code in scripts/dashboards, or check with --check that they are what the code says."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.dashboards import llm_cost, llm_gpu, llm_live, llm_task, llm_tasks  # noqa: E402
from scripts.dashboards.grafana_com import exported  # noqa: E402
from scripts.dashboards.panels import Json  # noqa: E402


def rendered(directory: Path, *, for_grafana_com: bool = False) -> dict[Path, str]:
    """File -> text of every dashboard; the file is named after the uid."""
    built = [board.build() for board in (llm_live, llm_tasks, llm_task, llm_cost, llm_gpu)]
    return {directory / f"{board['uid']}.json": _text(exported(board) if for_grafana_com else board) for board in built}


def _text(board: Json) -> str:
    return json.dumps(board, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    mode.add_argument(
        "--grafana-com",
        metavar="DIR",
        nargs="?",
        type=Path,
        const=ROOT / "dist/grafana.com",
        help="write them to DIR (default: dist/grafana.com) as grafana.com takes them: they ask for the data source at import",
    )
    options = parser.parse_args()
    if options.grafana_com is None:
        boards = rendered(ROOT / "dashboards")
    else:
        boards = rendered(options.grafana_com.resolve(), for_grafana_com=True)
    differing = [path for path, text in boards.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if options.check and differing:
        names = ", ".join(path.name for path in differing)
        print(f"{names}: not what scripts/dashboards says; run scripts/build_dashboards.py", file=sys.stderr)
        return 1
    for path in differing:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(boards[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
