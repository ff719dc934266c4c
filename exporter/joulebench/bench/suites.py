"""Suites of tasks from YAML, checked before anything runs; an error names the file, the task and the field.

A suite that ships with the package is named (``files``), any other is given by its path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Generic, TypeVar

import jsonschema

from joulebench.bench.file_stage import file_stage
from joulebench.bench.grading import CHECKS, Check
from joulebench.bench.stage import Stage, Work
from joulebench.bench.workspace import MAX_FILE_BYTES, MAX_FILES, path_problem
from joulebench.errors import UserError
from joulebench.files import load_yaml

SHIPPED = Path(__file__).parent / "suite"
MOST_SHOWN = 40
STUCK_AFTER = 3

T_co = TypeVar("T_co", bound=Work, covariant=True)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task: what is asked, the files it starts with, and how it is graded."""

    id: str
    name: str
    instruction: str
    files: Mapping[str, str]
    grade: tuple[Check, ...]
    max_turns: int
    timeout_seconds: float
    stuck_after: int | None = STUCK_AFTER

    def stage(self) -> AbstractContextManager[Stage]:
        return file_stage(self.instruction, self.files, self.grade)


@dataclass(frozen=True, slots=True)
class Suite(Generic[T_co]):
    """``context_tokens``: what its conversations need, tools included, with a tokenizer of a small vocabulary."""

    name: str
    tasks: tuple[T_co, ...]
    context_tokens: int = 4096

    def only(self, globs: str) -> Suite[T_co]:
        """The tasks whose id matches one of the patterns, which commas part; raises UserError when none does."""
        wanted = globs.split(",")
        found = tuple(task for task in self.tasks if any(fnmatchcase(task.id, glob) for glob in wanted))
        if not found:
            shown = ", ".join(task.id for task in self.tasks[:MOST_SHOWN])
            more = ", ..." if len(self.tasks) > MOST_SHOWN else ""
            raise UserError(f"--tasks: no task of suite {self.name} matches {globs!r}; it has {shown}{more}")
        return replace(self, tasks=found)


def _object(properties: Mapping[str, object], required: list[str]) -> dict[str, object]:
    return {"type": "object", "properties": dict(properties), "required": required, "additionalProperties": False}


_ID = {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,63}$"}
_SENTENCE = {"type": "string", "minLength": 1}
_TURNS = {"type": "integer", "minimum": 1, "maximum": 100}
_TIMEOUT = {"type": "number", "exclusiveMinimum": 0}
_CHECK = {
    "type": "object",
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": False,
    "properties": {
        name: _object(kind.properties, [key for key in kind.properties if key not in kind.optional])
        for name, kind in CHECKS.items()
    },
}
_TASK = _object(
    {
        "id": _ID,
        "name": _SENTENCE,
        "instruction": _SENTENCE,
        "files": {
            "type": "object",
            "maxProperties": MAX_FILES,
            "propertyNames": {"type": "string", "format": "task-path"},
            "additionalProperties": {"type": "string", "maxLength": MAX_FILE_BYTES},
        },
        "grade": {"type": "array", "minItems": 1, "items": _CHECK},
        "max_turns": _TURNS,
        "timeout_seconds": _TIMEOUT,
    },
    ["id", "name", "instruction", "grade"],
)
_SUITE = _object(
    {
        "name": _ID,
        "description": _SENTENCE,
        "max_turns": _TURNS,
        "timeout_seconds": _TIMEOUT,
        "tasks": {"type": "array", "minItems": 1, "items": _TASK},
    },
    ["name", "tasks"],
)

_formats = jsonschema.FormatChecker(formats=())


@_formats.checks("task-path")
def _is_task_path(value: object) -> bool:
    return not isinstance(value, str) or path_problem(value) is None


@_formats.checks("regex", raises=re.error)
def _is_regex(value: object) -> bool:
    return not isinstance(value, str) or bool(re.compile(value))


def load(name_or_path: str) -> Suite[TaskSpec]:
    """A shipped suite by name or a file by path; raises UserError."""
    path = SHIPPED / f"{name_or_path}.yaml"
    if "/" in name_or_path or not path.is_file():
        path = Path(name_or_path)
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.yaml")))
        raise UserError(f"--suite: {name_or_path!r} is neither a shipped suite ({shipped}) nor a file")
    try:
        document = load_yaml(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {error}") from error
    fault = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(_SUITE, format_checker=_formats).iter_errors(document)
    )
    if fault is not None:
        raise UserError(_located_message(path, document, fault))
    ids = [task["id"] for task in document["tasks"]]
    twice = next((id_ for id_ in ids if ids.count(id_) > 1), None)
    if twice is not None:
        raise UserError(f"{path}: task {twice!r}: id: two tasks have it; give each its own")
    return Suite(document["name"], tuple(_task(task, document) for task in document["tasks"]))


def _task(task: Mapping[str, object], suite: Mapping[str, object]) -> TaskSpec:
    files, checks = task.get("files", {}), task["grade"]
    assert isinstance(files, dict)
    assert isinstance(checks, list)
    return TaskSpec(
        id=str(task["id"]),
        name=str(task["name"]),
        instruction=str(task["instruction"]),
        files=files,
        grade=tuple(Check(kind, parameters) for check in checks for kind, parameters in check.items()),
        max_turns=int(str(task.get("max_turns", suite.get("max_turns", 6)))),
        timeout_seconds=float(str(task.get("timeout_seconds", suite.get("timeout_seconds", 60)))),
    )


def _located_message(path: Path, document: object, error: jsonschema.ValidationError) -> str:
    """``FILE: task 'ID': FIELD: what is wrong``."""
    steps = list(error.absolute_path)
    place = ""
    if steps[:1] == ["tasks"] and len(steps) > 1 and isinstance(steps[1], int):
        assert isinstance(document, dict)
        task = document["tasks"][steps[1]]
        name = task.get("id") if isinstance(task, dict) else None
        place = f"task {name!r}: " if isinstance(name, str) else f"task number {steps[1] + 1}: "
        steps = steps[2:]
    field = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
    return f"{path}: {place}{field + ': ' if field else ''}{_message(error)}"


def _message(error: jsonschema.ValidationError) -> str:
    match error.validator, error.validator_value:
        case "format", "task-path":
            return f"{error.instance!r}: {path_problem(str(error.instance))}"
        case "format", "regex":
            return f"{error.instance!r} is not a regular expression: {error.cause}"
        case "minProperties" | "maxProperties", _:
            return f"give exactly one check, one of {', '.join(CHECKS)}"
    return error.message
