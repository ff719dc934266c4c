"""The result files of runs, one at a time: ten thousand of them never lie in memory together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from joulebench.errors import UserError

PATTERN = "result_*.json"
SECTIONS = ("raw_events", "metadata", "measurement")


def read(directory: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """(path, record) by name, which is by time. Raises UserError for a file that is no result file."""
    for path in sorted(directory.glob(PATTERN)):
        try:
            record = json.loads(path.read_bytes())
            missing = [name for name in SECTIONS if name not in record]
        except (OSError, ValueError, TypeError) as error:
            raise wrong(path, repr(error)) from error
        if missing or not isinstance(record, dict):
            raise wrong(path, f"without {', '.join(missing) or 'sections'}")
        yield path, record


def wrong(path: Path, why: str) -> UserError:
    return UserError(f"{path}: not a result file of joulebench export ({why}); export the run again")
