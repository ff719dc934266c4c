"""What the scripts that render a page share: write it, or check that it is up to date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def write_or_check(render: Callable[[], str], target: Path, description: str | None) -> int:
    """Writes ``target``; with ``--check`` writes nothing and returns 1 where it is not up to date."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help=f"write nothing; exit 1 if {target.name} is not up to date")
    text = render()
    if parser.parse_args().check:
        is_current = target.exists() and target.read_text(encoding="utf-8") == text
        if not is_current:
            script = Path(sys.argv[0]).name
            print(f"{target.relative_to(ROOT)} is not up to date; run: python scripts/{script}", file=sys.stderr)
        return 0 if is_current else 1
    target.write_text(text, encoding="utf-8")
    return 0
