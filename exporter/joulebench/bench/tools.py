"""The tools of the file tasks: what they are, the schema of their arguments, and what an attempt at one comes to.

No tool starts a program, opens a network connection or leaves the task's folder.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jsonschema

from joulebench.bench.arithmetic import calculate
from joulebench.bench.stage import Attempt, failed, refusal
from joulebench.bench.workspace import ToolFailure, Workspace
from joulebench.llm.chat import ToolCall, ToolSpec

FINISH = "finish"
MAX_RESULT_CHARACTERS = 4000

Arguments = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Tool:
    spec: ToolSpec
    validator: jsonschema.Draft202012Validator
    work: Callable[[Workspace, Arguments], str]


def _list_files(workspace: Workspace, _: Arguments) -> str:
    return "\n".join(workspace.names()) or "(no files)"


def _read_file(workspace: Workspace, given: Arguments) -> str:
    return workspace.read(given["path"]) or "(empty)"


def _write_file(workspace: Workspace, given: Arguments) -> str:
    workspace.write(given["path"], given["text"])
    return "ok"


def _append_file(workspace: Workspace, given: Arguments) -> str:
    workspace.write(given["path"], given["text"], append=True)
    return "ok"


def _delete_file(workspace: Workspace, given: Arguments) -> str:
    workspace.delete(given["path"])
    return "ok"


def _count_lines(workspace: Workspace, given: Arguments) -> str:
    return str(len(workspace.read(given["path"]).splitlines()))


def _csv_column(workspace: Workspace, given: Arguments) -> str:
    reader = csv.DictReader(io.StringIO(workspace.read(given["path"])))
    columns = reader.fieldnames or []
    if given["column"] not in columns:
        raise ToolFailure(f"{given['path']}: no column {given['column']!r}; it has {', '.join(columns) or 'none'}")
    return "\n".join(row[given["column"]] or "" for row in reader)


def _calculate(_: Workspace, given: Arguments) -> str:
    return calculate(given["expression"])


def _finish(_: Workspace, given: Arguments) -> str:
    return given["answer"]


def _tool(name: str, description: str, work: Callable[[Workspace, Arguments], str], **arguments: str) -> _Tool:
    properties = {argument: {"type": "string", "description": help_} for argument, help_ in arguments.items()}
    schema = {"type": "object", "properties": properties, "required": list(arguments), "additionalProperties": False}
    return _Tool(ToolSpec(name, description, schema), jsonschema.Draft202012Validator(schema), work)


_TOOLS: dict[str, _Tool] = {
    tool.spec.name: tool
    for tool in (
        _tool("list_files", "List all files.", _list_files),
        _tool("read_file", "Read a file.", _read_file, path="file"),
        _tool("write_file", "Write a file, replacing what it held.", _write_file, path="file", text="new content"),
        _tool("append_file", "Add text to the end of a file.", _append_file, path="file", text="text to add"),
        _tool("delete_file", "Delete a file.", _delete_file, path="file"),
        _tool("count_lines", "Count the lines of a file.", _count_lines, path="file"),
        _tool("csv_column", "Read one column of a CSV file.", _csv_column, path="file", column="column name"),
        _tool("calculate", "Calculate a number.", _calculate, expression="such as 2*(3+4)"),
        _tool(FINISH, "End the task.", _finish, answer="the answer, or ok"),
    )
}

SPECS: tuple[ToolSpec, ...] = tuple(tool.spec for tool in _TOOLS.values())
NAMES: tuple[str, ...] = tuple(_TOOLS)


def attempt(workspace: Workspace, request: ToolCall) -> Attempt:
    """Checks and runs one call; a call that is wrong in any way is an outcome, never an exception."""
    tool = _TOOLS.get(request.name)
    refused = refusal(request, NAMES, tool.validator if tool else None)
    if refused is not None or tool is None:
        return refused or failed("undeclared", request.name)
    assert isinstance(request.arguments, dict)
    try:
        text = tool.work(workspace, request.arguments)
    except ToolFailure as error:
        return failed("tool_error", str(error))
    except (OSError, csv.Error) as error:
        return failed("tool_error", f"{request.name}: {error}")
    if len(text) > MAX_RESULT_CHARACTERS:
        text = f"{text[:MAX_RESULT_CHARACTERS]}\n(cut: {len(text)} characters in all)"
    return Attempt("ok", text)
