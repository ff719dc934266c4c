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


def rendered() -> dict[Path, str]:
    """File -> text of every dashboard; the file is named after the uid."""
    built = [board.build() for board in (llm_live, llm_tasks, llm_task, llm_cost, llm_gpu)]
    return {
        ROOT / "dashboards" / f"{board['uid']}.json": json.dumps(board, indent=2, ensure_ascii=False) + "\n" for board in built
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    checking = parser.parse_args().check
    differing = [path for path, text in rendered().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if checking and differing:
        names = ", ".join(path.name for path in differing)
        print(f"{names}: not what scripts/dashboards says; run scripts/build_dashboards.py", file=sys.stderr)
        return 1
    for path in differing:
        path.write_text(rendered()[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
