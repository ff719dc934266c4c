"""Which task a session of the MCPWorld client is of, live and from its files, by one rule: application, task, session, repetition.

The client has three ids for one task, and its shortest, ``01``, names two of them. ``vscode/task01_updateColorTheme`` is the id in
its summaries and the shortest that names one task; model, infrastructure tag and start of the session beside it tell measurements
apart. This module must run on the client's own interpreter and imports nothing but the standard library and ``parsing``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import PurePath
from typing import NamedTuple

from joulebench.parsing import as_dict, as_float, as_name

UNKNOWN = "unknown"
_TIME = r"\d{8}_\d{6}"
_TIME_FIRST = re.compile(rf"result_{_TIME}_(.+)")
_TIME_LAST = re.compile(rf"result_(.+)_{_TIME}")
_FOLDER_ID = re.compile(r"task\d+_.+")
_RUNS = "_runs"


class ClientIdentity(NamedTuple):
    """``task``: folder id such as ``task01_updateColorTheme``. ``start``: unix seconds of the session, None where it is unknown."""

    application: str
    task: str
    model: str
    infrastructure: str
    start: float | None

    @property
    def task_key(self) -> str:
        """``vscode/task01_updateColorTheme``, or the task alone where the application is unknown."""
        return self.task if self.application == UNKNOWN else f"{self.application}/{self.task}"

    def __str__(self) -> str:
        return "|".join([self.task_key, self.model, self.infrastructure, "" if self.start is None else f"{self.start:.3f}"])


def identify(metadata: Mapping[str, object], path: PurePath | None = None, task_id: str | None = None) -> ClientIdentity:
    """``metadata``: of the result file or of the running session. ``path``: of the file. ``task_id``: the evaluator's own id."""
    config = as_dict(metadata.get("task_config_at_start"))
    model = as_name(metadata.get("model_name")) or UNKNOWN
    infrastructure = as_name(metadata.get("infrastructure_tag")) or ""
    named = task_id or (_task_of_file(path, model, infrastructure) if path is not None else None)
    prefix, _, task = (named or "").rpartition("/")
    application = as_name(as_dict(config.get("application_info")).get("name")) or prefix or _application_of_folder(path)
    return ClientIdentity(
        application=(application or UNKNOWN).lower(),
        task=task or as_name(config.get("task_id")) or (path.stem if path is not None else UNKNOWN),
        model=model,
        infrastructure=infrastructure,
        start=as_float(metadata.get("session_start_unix")),
    )


def run_of_folder(path: PurePath) -> str:
    """Returns the name of the client's run, ``{time}_{model}[_{infrastructure}]``, else that of the file's folder."""
    for above, folder in pairwise(path.parent.parts):
        if above.endswith(_RUNS):
            return folder
    return path.parent.name


def clean_model_name(model: str) -> str:
    """Returns a model's name as file and folder names have it."""
    return model.replace(":", "-").replace("/", "_")


def _task_of_file(path: PurePath, model: str, infrastructure: str) -> str | None:
    """Of ``result_{time}_{model}[_{infrastructure}]_{task}.json`` and of the older ``result_{task}_{time}.json``."""
    if (older := _TIME_LAST.fullmatch(path.stem)) is not None:
        rest = older[1]
    elif (newer := _TIME_FIRST.fullmatch(path.stem)) is not None:
        rest = newer[1]
        for part in (clean_model_name(model), infrastructure):
            if part:
                rest = rest.removeprefix(f"{part}_")
    else:
        rest = path.stem.removeprefix("result_")
    folder_id = _FOLDER_ID.search(rest)
    return None if folder_id is None else folder_id[0]


def _application_of_folder(path: PurePath | None) -> str | None:
    """From ``.../vscode_runs/...``, for a file without its configuration."""
    folders = () if path is None else path.parts
    return next((folder.removesuffix(_RUNS) for folder in reversed(folders) if folder.endswith(_RUNS)), None)
