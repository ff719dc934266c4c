"""Prints size, shape and wording of the package at one or two git revisions, as a Markdown table.

    python scripts/code_figures.py v0.1.0 HEAD

Rooms are the packages below ``exporter/joulebench``. Words are counted in identifiers, docstrings, comments and messages
alike. Queries and panels are those of ``dashboards/*.json``.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import statistics
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

PACKAGE = PurePosixPath("exporter/joulebench")
WORDS = ("one", "found", "known", "told", "tells", "tell", "whole", "asked", "held", "here")
"""Words that stand for a noun or a verb of the field where one should be written out."""


def python_files(revision: str) -> tuple[dict[PurePosixPath, str], list[str]]:
    """Returns the sources of the package by path inside it, and the dashboards' JSON texts."""
    tree = subprocess.run(["git", "archive", revision, str(PACKAGE), "dashboards"], check=True, capture_output=True).stdout
    sources: dict[PurePosixPath, str] = {}
    boards: list[str] = []
    with tarfile.open(fileobj=io.BytesIO(tree)) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            file = archive.extractfile(member) if member.isfile() else None
            if file is None:
                continue
            if path.suffix == ".py":
                sources[path.relative_to(PACKAGE)] = file.read().decode()
            elif path.suffix == ".json" and path.parent.name == "dashboards":
                boards.append(file.read().decode())
    return sources, boards


def room_sizes(sources: Mapping[PurePosixPath, str]) -> dict[str, tuple[int, int]]:
    """Returns (files, lines) by room; modules at the top of the package are one room."""
    files: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for path, text in sources.items():
        room = path.parts[0] if len(path.parts) > 1 else "(top)"
        files[room] += 1
        lines[room] += len(text.splitlines())
    return {room: (files[room], lines[room]) for room in sorted(files)}


def repeated(names: Iterator[str]) -> int:
    return sum(count > 1 for count in Counter(names).values())


def class_names(sources: Mapping[PurePosixPath, str]) -> Iterator[str]:
    for text in sources.values():
        yield from (node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef))


def panels(board: object) -> Iterator[dict[str, object]]:
    """Yields every panel that shows something; a row is none."""
    for panel in board.get("panels", []) if isinstance(board, dict) else ():
        if panel.get("type") == "row":
            yield from panels(panel)
        else:
            yield panel


def figures(revision: str) -> dict[str, str]:
    """Returns the figures of a revision by their names."""
    sources, texts = python_files(revision)
    sizes = [len(text.splitlines()) for text in sources.values() if text.strip()]
    shown = [panel for text in texts for panel in panels(json.loads(text))]
    targets = [target for panel in shown for target in panel.get("targets") or ()]  # type: ignore[attr-defined]
    queries = [str(target["expr"]) for target in targets if target.get("expr")]
    words = Counter(re.findall(r"[a-z]+", "\n".join(sources.values()).lower()))
    result = {
        "lines": f"{sum(sizes):,}",
        "files": str(len(sizes)),
        "median module, lines": f"{statistics.median(sizes):.0f}",
        "longest module, lines": str(max(sizes)),
        "file names that occur more than once": str(repeated(path.name for path in sources if path.name != "__init__.py")),
        "class names that occur more than once": str(repeated(class_names(sources))),
        **{f"word '{word}'": str(words[word]) for word in WORDS},
        "panels": str(len(shown)),
        "queries": str(len(queries)),
        "median query, characters": f"{statistics.median(map(len, queries)):.0f}",
        "longest query, characters": str(max(map(len, queries))),
        "queries over 600 characters": str(sum(len(query) > 600 for query in queries)),
    }
    rooms = {f"room {room}: files, lines": f"{files}, {lines:,}" for room, (files, lines) in room_sizes(sources).items()}
    return {**result, **rooms}


def main() -> None:
    parser = argparse.ArgumentParser(description="Print size, shape and wording of the package at git revisions.")
    parser.add_argument("revisions", nargs="+", metavar="REVISION", help="git revisions, oldest first")
    revisions = parser.parse_args().revisions
    columns = [figures(revision) for revision in revisions]
    names = dict.fromkeys(name for column in columns for name in column)
    print("| | " + " | ".join(revisions) + " |")
    print("| --- |" + " --- |" * len(revisions))
    for name in names:
        print(f"| {name} | " + " | ".join(column.get(name, "") for column in columns) + " |")


if __name__ == "__main__":
    main()
