"""Which task a result file is of. The client has three ids for one task, and its shortest, ``01``, names two of them.

The key that tells measurements apart is application, folder id, model, infrastructure tag and start of the session together.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import NamedTuple

from joulebench.mcpworld.document import Document
from joulebench.results.journal import number, text

_STAMP = re.compile(r"result_\d{8}_\d{6}_")
_FOLDER_ID = re.compile(r"task\d+_\w+")
_RUNS = "_runs"


class Identity(NamedTuple):
    """``task``: folder id such as ``task01_updateColorTheme``. ``start``: unix seconds of the session, None where not told."""

    application: str
    task: str
    model: str
    infrastructure: str
    start: float | None

    @property
    def task_key(self) -> str:
        """``vscode/task01_updateColorTheme``: the id in the client's summaries, and the shortest that names one task."""
        return f"{self.application}/{self.task}"

    def __str__(self) -> str:
        return "|".join([self.task_key, self.model, self.infrastructure, "" if self.start is None else f"{self.start:.3f}"])


def identify(document: Document) -> Identity:
    metadata = document.section("metadata")
    config = document.section("metadata", "task_config_at_start")
    model = text(metadata.get("model_name")) or "unknown"
    infrastructure = text(metadata.get("infrastructure_tag")) or ""
    application = text(document.section("metadata", "task_config_at_start", "application_info").get("name"))
    return Identity(
        application=(application or _application_of(document.path) or "unknown").lower(),
        task=_folder_id(document.path, model, infrastructure) or text(config.get("task_id")) or document.path.stem,
        model=model,
        infrastructure=infrastructure,
        start=number(metadata.get("session_start_unix")),
    )


def cleaned(model: str) -> str:
    """A model as file and folder names have it."""
    return model.replace(":", "-").replace("/", "_")


def _folder_id(path: PurePath, model: str, infrastructure: str) -> str | None:
    rest = _STAMP.sub("", path.stem, count=1)
    for part in (cleaned(model), infrastructure):
        if part:
            rest = rest.removeprefix(f"{part}_")
    if rest != path.stem and _FOLDER_ID.fullmatch(rest):
        return rest
    found = _FOLDER_ID.search(path.stem)
    return found[0] if found else None


def _application_of(path: PurePath) -> str | None:
    """From ``.../vscode_runs/...``, for a file without its configuration."""
    return next((part.removesuffix(_RUNS) for part in reversed(path.parts) if part.endswith(_RUNS)), None)
