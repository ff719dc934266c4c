"""Deterministic grades: checks over the files and the answer that a task left behind. Pure.

A task passes when all of its checks hold. Text is compared without trailing white space, since a newline at the end is not what
a task is about.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Files = Mapping[str, str]
Parameters = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Check:
    """One condition: the kind's name and its parameters as the suite gives them."""

    kind: str
    parameters: Parameters

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(f'{key}={str(value)[:60]!r}' for key, value in self.parameters.items())})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``held`` has one entry per check; ``reason`` names the first that did not hold."""

    passed: bool
    reason: str
    held: tuple[bool, ...]


def grade(checks: Sequence[Check], answer: str, files: Files) -> Verdict:
    problems = [CHECKS[check.kind].work(check.parameters, answer, files) for check in checks]
    failed = [f"{check.kind}: {problem}" for check, problem in zip(checks, problems, strict=True) if problem]
    return Verdict(not failed, failed[0] if failed else "", tuple(problem == "" for problem in problems))


def _file_equals(given: Parameters, _: str, files: Files) -> str:
    path, text = str(given["path"]), str(given["text"])
    if path not in files:
        return f"{path} does not exist"
    return "" if _trimmed(files[path]) == _trimmed(text) else f"{path} holds {files[path][:80]!r}"


def _file_contains(given: Parameters, _: str, files: Files) -> str:
    path, text = str(given["path"]), str(given["text"])
    if path not in files:
        return f"{path} does not exist"
    return "" if text in files[path] else f"{path} does not hold {text[:80]!r}"


def _file_absent(given: Parameters, _: str, files: Files) -> str:
    path = str(given["path"])
    return f"{path} exists" if path in files else ""


def _json_equals(given: Parameters, _: str, files: Files) -> str:
    path = str(given["path"])
    if path not in files:
        return f"{path} does not exist"
    try:
        value = json.loads(files[path])
    except (ValueError, RecursionError):
        return f"{path} is not JSON"
    # As text, so that true and 1 stay two values.
    same = json.dumps(value, sort_keys=True) == json.dumps(given["value"], sort_keys=True)
    return "" if same else f"{path} holds {files[path][:80]!r}"


def _csv_cell(given: Parameters, _: str, files: Files) -> str:
    path, row, column = str(given["path"]), int(str(given["row"])), str(given["column"])
    if path not in files:
        return f"{path} does not exist"
    rows = list(csv.DictReader(io.StringIO(files[path])))
    if row > len(rows):
        return f"{path} has {len(rows)} rows"
    cell = rows[row - 1].get(column)
    return "" if cell is not None and cell.strip() == str(given["value"]) else f"{path} row {row} {column} is {cell!r}"


def _answer_equals(given: Parameters, answer: str, _: Files) -> str:
    return "" if answer.strip().casefold() == str(given["text"]).strip().casefold() else f"the answer is {answer[:80]!r}"


def _answer_contains(given: Parameters, answer: str, _: Files) -> str:
    return "" if str(given["text"]).casefold() in answer.casefold() else f"the answer is {answer[:80]!r}"


def _answer_matches(given: Parameters, answer: str, _: Files) -> str:
    found = re.search(str(given["pattern"]), answer, re.IGNORECASE)
    return "" if found else f"the answer is {answer[:80]!r}"


def _answer_number(given: Parameters, answer: str, _: Files) -> str:
    """The last number of the answer is the number meant: models like to repeat the question first."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", answer.replace(",", ""))
    wanted, tolerance = float(str(given["value"])), float(str(given.get("tolerance", 0)))
    return "" if numbers and abs(float(numbers[-1]) - wanted) <= tolerance else f"the answer is {answer[:80]!r}"


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


@dataclass(frozen=True, slots=True)
class Kind:
    """How a check works and which parameters it takes (JSON Schema properties; ``optional`` may be left out)."""

    work: Callable[[Parameters, str, Files], str]
    properties: Mapping[str, Mapping[str, object]]
    optional: tuple[str, ...] = ()


_TEXT: Mapping[str, object] = {"type": "string"}
_PATH: Mapping[str, object] = {"type": "string", "format": "task-path"}

CHECKS: dict[str, Kind] = {
    "file_equals": Kind(_file_equals, {"path": _PATH, "text": _TEXT}),
    "file_contains": Kind(_file_contains, {"path": _PATH, "text": _TEXT}),
    "file_absent": Kind(_file_absent, {"path": _PATH}),
    "json_equals": Kind(_json_equals, {"path": _PATH, "value": {}}),
    "csv_cell": Kind(
        _csv_cell,
        {
            "path": _PATH,
            "row": {"type": "integer", "minimum": 1},
            "column": _TEXT,
            "value": {"type": ["string", "integer", "number"]},
        },
    ),
    "answer_equals": Kind(_answer_equals, {"text": _TEXT}),
    "answer_contains": Kind(_answer_contains, {"text": {"type": "string", "minLength": 1}}),
    "answer_matches": Kind(_answer_matches, {"pattern": {"type": "string", "format": "regex"}}),
    "answer_number": Kind(
        _answer_number, {"value": {"type": "number"}, "tolerance": {"type": "number", "minimum": 0}}, ("tolerance",)
    ),
}
