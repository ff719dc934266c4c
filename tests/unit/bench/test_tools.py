"""The tools do what they say inside the task's folder, and nothing outside of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from joulebench.bench import tools
from joulebench.bench.stage import Attempt
from joulebench.bench.workspace import MAX_FILE_BYTES, MAX_FILES, ToolFailure, Workspace
from joulebench.llm.chat import ToolCall
from joulebench.metrics import TOOL_OUTCOMES

FILES = {"a.txt": "one\ntwo\n", "sub/b.csv": "name,age\nAda,36\nKurt,71\n", "empty.txt": ""}


@pytest.fixture
def workspace() -> Iterator[Workspace]:
    with Workspace(FILES) as made:
        yield made


def use(workspace: Workspace, name: str, **arguments: object) -> Attempt:
    return tools.attempt(workspace, ToolCall(name, json.dumps(arguments), arguments))


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("list_files", {}, "a.txt\nempty.txt\nsub/b.csv"),
        ("read_file", {"path": "a.txt"}, "one\ntwo\n"),
        ("read_file", {"path": "empty.txt"}, "(empty)"),
        ("count_lines", {"path": "a.txt"}, "2"),
        ("csv_column", {"path": "sub/b.csv", "column": "age"}, "36\n71"),
        ("calculate", {"expression": "2*(3+4)-1/4"}, "13.75"),
        ("calculate", {"expression": "-7//2"}, "-4"),
        ("finish", {"answer": "done"}, "done"),
    ],
)
def test_reading(workspace: Workspace, name: str, arguments: dict[str, str], text: str) -> None:
    assert use(workspace, name, **arguments) == Attempt("ok", text)


def test_writing(workspace: Workspace) -> None:
    assert use(workspace, "write_file", path="new/c.txt", text="x").outcome == "ok"
    assert use(workspace, "append_file", path="new/c.txt", text="y").outcome == "ok"
    assert use(workspace, "append_file", path="d.txt", text="z").outcome == "ok"
    assert use(workspace, "delete_file", path="a.txt").outcome == "ok"
    assert workspace.snapshot() == {"sub/b.csv": FILES["sub/b.csv"], "empty.txt": "", "new/c.txt": "xy", "d.txt": "z"}


PATH_TOOLS = ("read_file", "write_file", "append_file", "delete_file", "count_lines", "csv_column")
EXTRA = {"write_file": {"text": "x"}, "append_file": {"text": "x"}, "csv_column": {"column": "name"}}


@pytest.mark.parametrize("name", PATH_TOOLS)
@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "sub/../../x", "~/x", "", ".", "a\x00b", "sub\\b.csv", "x" * 300])
def test_no_path_leads_out(workspace: Workspace, name: str, path: str) -> None:
    attempt = use(workspace, name, path=path, **EXTRA.get(name, {}))
    assert (attempt.outcome, attempt.text) == ("tool_error", f"error: {attempt.error}")
    assert workspace.snapshot() == FILES


@pytest.mark.parametrize("name", PATH_TOOLS)
def test_symbolic_links_are_not_followed(workspace: Workspace, name: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("name\nsecret\n")
    (workspace.root / "file-link").symlink_to(secret)
    (workspace.root / "folder-link").symlink_to(tmp_path)
    for path in ("file-link", "folder-link/secret.txt", "folder-link/new.txt"):
        assert use(workspace, name, path=path, **EXTRA.get(name, {})).outcome == "tool_error"
    assert [path.name for path in tmp_path.iterdir()] == ["secret.txt"]
    assert secret.read_text() == "name\nsecret\n"
    assert "secret" not in use(workspace, "list_files").text
    assert workspace.snapshot() == FILES


def test_sizes_are_bounded(workspace: Workspace) -> None:
    assert use(workspace, "write_file", path="big", text="x" * MAX_FILE_BYTES).outcome == "ok"
    assert use(workspace, "append_file", path="big", text="x").outcome == "tool_error"
    assert use(workspace, "write_file", path="big", text="x" * (MAX_FILE_BYTES + 1)).outcome == "tool_error"
    shown = use(workspace, "read_file", path="big").text
    assert len(shown) < tools.MAX_RESULT_CHARACTERS + 100
    for number in range(MAX_FILES - len(FILES) - 1):
        workspace.write(f"{number}", "")
    with pytest.raises(ToolFailure, match="at most"):
        workspace.write("one-more", "")


@pytest.mark.parametrize(
    "expression", ["9**9**9", "__import__('os')", "a+1", "1/0", "(" * 150, "1e15*10", "True+1", "'x'*3", "", "1j", "1;2"]
)
def test_only_bounded_arithmetic(workspace: Workspace, expression: str) -> None:
    assert use(workspace, "calculate", expression=expression).outcome == "tool_error"


@pytest.mark.parametrize("arguments", [[], "a.txt", None, 3, {}, {"path": 3}, {"path": "a.txt", "more": "x"}, {"path": None}])
def test_arguments_must_fit_the_schema(workspace: Workspace, arguments: object) -> None:
    attempt = tools.attempt(workspace, ToolCall("read_file", json.dumps(arguments), arguments))
    assert attempt.outcome == "schema_invalid"
    assert "read_file" in attempt.error


def test_the_folder_is_gone_afterwards() -> None:
    with Workspace(FILES) as made:
        root = made.root
        assert root.is_dir()
    assert not root.exists()


def test_every_outcome_is_a_declared_label_value(workspace: Workspace) -> None:
    found = {
        use(workspace, "list_files").outcome,
        use(workspace, "rm_rf").outcome,
        use(workspace, "read_file").outcome,
        use(workspace, "read_file", path="nope").outcome,
        tools.attempt(workspace, ToolCall("read_file", "{", None, "not JSON")).outcome,
    }
    # Only the proxy leaves a call unchecked, whose schema a client chooses.
    assert found == set(TOOL_OUTCOMES) - {"unchecked"}


def test_tools_are_declared_with_closed_schemas() -> None:
    assert [spec.name for spec in tools.SPECS] == list(tools.NAMES)
    assert all(spec.parameters["additionalProperties"] is False for spec in tools.SPECS)
