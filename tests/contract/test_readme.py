"""What the README promises exists: commands, flags, make targets, links, and the lines of Python in it run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas
import pytest

from joulebench import cli
from tests.contract.commands import parse

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def command_lines() -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


def test_every_command_is_documented() -> None:
    rows = [f"| `joulebench {name}` | {help_} |" for name, (_, help_) in cli.COMMANDS.items()]
    rows += [f"| `joulebench {group} {name}`, short `joulebench {name}` |" for name, group in cli.ALIASES.items()]
    assert [row for row in rows if row not in README] == [], "add these lines to the table of commands in README.md"


@pytest.mark.parametrize("line", [line for line in command_lines() if line.startswith("joulebench ")])
def test_documented_flags_exist(line: str) -> None:
    assert parse(shlex.split(line)[1:]).params


@pytest.mark.parametrize("line", [line for line in command_lines() if line.startswith("make ")])
def test_documented_targets_exist(line: str) -> None:
    assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_ci_runs_what_a_newcomer_runs() -> None:
    script = (ROOT / ".ci/run").read_text().splitlines()
    assert "tier make test" in script


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", README))))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_the_first_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # A port that nothing listens on: a run without any of the programs around it is a whole run.
    monkeypatch.setenv("JOULEBENCH_GATEWAY_URL", "http://127.0.0.1:9")
    first, calls_and_tools = blocks("python")[:2]
    lines = first.replace("    task.succeed()\n", _indented(calls_and_tools) + "    task.succeed()\n")
    (tmp_path / "note.txt").write_text("hello")

    class Reply:
        prompt_tokens, completion_tokens = 7, 5

    names = {"ask_the_model": Reply, "read_file": lambda path: Path(path).read_text()}
    exec(compile(lines, "README.md", "exec"), names)
    (journal,) = tmp_path.glob("runs/*/journal-*.jsonl")
    text = journal.read_text()
    assert '"completion_tokens":5' in text
    assert '"status":"success"' in text


def test_the_table_has_columns_of_the_csv() -> None:
    from joulebench.schema.columns import COLUMN_NAMES

    header = next(line for line in README.splitlines() if line.startswith("| task_name"))
    assert {cell.strip() for cell in header.strip("|").split("|")} <= set(COLUMN_NAMES)


def test_the_analysis_lines_run_on_the_golden_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = ROOT / "tests/goldens/results/run-1.csv"
    lines = re.sub(r'"runs/[^"]*"', repr(str(golden)), blocks("python")[2])
    names: dict[str, object] = {"pandas": pandas}
    exec(compile(lines, "README.md", "exec"), names)
    assert isinstance(names["df"], pandas.DataFrame)


def _indented(block: str) -> str:
    return "".join(f"    {line}\n" for line in block.splitlines())
