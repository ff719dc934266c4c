"""Instrumented clients: they behave as without us, and each call is in the task that it belongs to, with its tokens."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from joulebench import cli
from joulebench.schema import load_results
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import Json, Turn, call, say

SAID = say("one two three four")
NONE = {f"JOULEBENCH_{server}_URL": "none" for server in ("GATEWAY", "PROMETHEUS", "EXPORTER")}


def answer(body: Json) -> Turn:
    messages = body["messages"]
    assert isinstance(messages, list)
    match messages[-1]["content"]:
        case "fail":
            return Turn(raw="the model crashed", fault="http_500")
        case "tool":
            return call("search", query="x")
        case _:
            return SAID


def run(directory: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    local = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "JOULEBENCH_RUNS_DIR": str(directory / "runs"), **NONE, **environment}
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, **local},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def events(directory: Path, kind: str) -> list[dict[str, object]]:
    lines = [line for path in sorted(directory.glob("runs/*/journal-*.jsonl")) for line in path.read_text().splitlines()]
    return [event for event in map(json.loads, lines) if event["event_type"] == kind]


def need_package(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed; make test-clients has it")


@pytest.mark.parametrize(
    ("client", "read", "without_tokens", "failed"),
    [("openai", 9, ["stopped early", "never read"], 1), ("ollama", 6, ["stopped early"], 2), ("litellm", 12, [], 3)],
)
def test_a_client_behaves_as_without_us_and_each_of_its_calls_is_recorded(
    client: str, read: int, without_tokens: list[str], failed: int, tmp_path: Path
) -> None:
    need_package(client)
    with ModelServer(answer) as server:
        command = ["-m", "tests.unit.integrations.client_calls", client, server.ollama_url]
        plain = run(tmp_path, *command, OLLAMA_HOST=server.ollama_url)
        assert plain.returncode == 0, plain.stderr
        assert not (tmp_path / "runs").exists()
        sent = len(server.exchanges)
        instrumented = run(tmp_path, "-m", "joulebench.cli", "run", "--run-id", "r", "--", sys.executable, *command,
                           OLLAMA_HOST=server.ollama_url)  # fmt: skip
        sent_again = len(server.exchanges) - sent
    assert instrumented.stdout == plain.stdout
    assert instrumented.returncode == 0, instrumented.stderr
    assert "joulebench:" not in instrumented.stderr
    assert sent_again == sent
    calls = events(tmp_path, "LLM_QUERY_END")
    assert len(calls) == sent + plain.stdout.count("ConnectionError")
    tools = events(tmp_path, "TOOL_CALL_START")
    whole = [event for event in calls if event["prompt_tokens"] == 100 and event["completion_tokens"] == SAID.completion_tokens]
    assert len(whole) == read, plain.stdout
    assert sum(event["status"] == "error" for event in calls) == failed
    assert len(calls) == read + len(tools) + failed + len(without_tokens)
    for tool in tools:
        assert (tool["tool_name"], tool["span_status"]) == ("search", "ok")
        assert tool["confidence"] == pytest.approx(0.99, abs=0.02)
    assert {end["outcome"] for end in events(tmp_path, "TOOL_CALL_END")} <= {"unchecked"}
    assert {task["model_name"] for task in events(tmp_path, "TASK_START")} == {"scripted:1b"}
    assert {task["status"] for task in events(tmp_path, "TASK_END")} == {"unknown"}


def test_calls_belong_to_the_task_of_their_context_and_none_is_recorded_twice(tmp_path: Path) -> None:
    need_package("ollama")
    with ModelServer(answer) as server:
        done = run(tmp_path, "-m", "tests.unit.integrations.own_run_calls", server.ollama_url)
    assert done.returncode == 0, done.stderr
    assert Counter(str(event["task_id"]) for event in events(tmp_path, "LLM_QUERY_END")) == {
        "by hand": 1,
        "in its block": 2,
        "a thread": 1,
        "inner": 1,
        "outer": 1,
        "first thread": 1,
        "second thread": 1,
        "one coroutine": 1,
        "two coroutines": 2,
        "no tools": 1,
    }
    assert [event["task_id"] for event in events(tmp_path, "TOOL_CALL_START")] == ["in its block"]
    assert done.stderr.count("a call outside of every task is not recorded") == 1
    assert done.stderr.count("in a forked process, whose task was opened by its parent, is not recorded") == 1


def test_a_script_that_fails_has_a_row_with_its_error_and_keeps_its_exit_code(tmp_path: Path) -> None:
    need_package("ollama")
    script = tmp_path / "agent.py"
    script.write_text(
        "import ollama\nollama.chat('scripted:1b', [{'role': 'user', 'content': 'say'}])\nraise ValueError('lost')\n"
    )
    with ModelServer([SAID]) as server:
        command = ["-m", "joulebench.cli", "run", "--run-id", "r", "--", sys.executable, str(script)]
        done = run(tmp_path, *command, OLLAMA_HOST=server.ollama_url)
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: lost\n")
    assert cli.main(["export", "--run-id", "r", "--runs-dir", str(tmp_path / "runs"), "--prometheus-url", "none"]) == 0
    (result,) = load_results([tmp_path / "runs" / "r"])
    assert (result.metadata.task_name, result.computed_metrics.task_completion_status.status) == ("agent.py", "error")
    assert result.computed_metrics.llm_token_usage.total_completion_tokens == SAID.completion_tokens


def test_a_client_that_we_cannot_record_and_a_run_that_cannot_be_opened_never_reach_the_benchmark(tmp_path: Path) -> None:
    need_package("ollama")
    calls = "ollama.chat('m', [{'role': 'user', 'content': 'say'}]).message.content for _ in range(2)"
    with ModelServer([SAID, SAID]) as server:
        command = ["-c", f"import joulebench, ollama; joulebench.instrument(); print(*({calls}))"]
        done = run(tmp_path, *command, OLLAMA_HOST=server.ollama_url, JOULEBENCH_RUN_ID="not a run id")
    assert (done.returncode, done.stdout) == (0, f"{SAID.content} {SAID.content}\n")
    assert done.stderr.count("a call could not be recorded") == 1
    assert "JOULEBENCH_RUN_ID: 'not a run id' must be" in done.stderr
    assert not (tmp_path / "runs").exists()


TESTS = """
import ollama, pytest

@pytest.mark.parametrize("number", [1, 2])
def test_words(number):
    assert len(ollama.chat("m", [{"role": "user", "content": "say"}]).message.content.split()) == 4 * number

def test_a_run_of_its_own():
    import joulebench
    with joulebench.Run("m") as run, run.task("inner"):
        pass
"""


@pytest.mark.parametrize(
    ("launcher", "flags", "expected"),
    [
        (
            True,
            [],
            ["inner", "test_words.py::test_a_run_of_its_own", "test_words.py::test_words[1]", "test_words.py::test_words[2]"],
        ),
        (True, ["-p", "no:joulebench"], ["inner", "pytest"]),
        (
            False,
            [],
            ["inner", "test_words.py::test_a_run_of_its_own", "test_words.py::test_words[1]", "test_words.py::test_words[2]"],
        ),
    ],
    ids=["launcher", "launcher, without the plugin", "the variable alone"],
)
def test_under_pytest_each_test_is_a_task_where_the_plugin_is_there(
    tmp_path: Path, *, launcher: bool, flags: list[str], expected: list[str]
) -> None:
    need_package("ollama")
    (tmp_path / "test_words.py").write_text(TESTS)
    pytest_command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), *flags, str(tmp_path)]
    command = ["-m", "joulebench.cli", "run", "--run-id", "r", "--", sys.executable] if launcher else []
    alone = {} if launcher else {"JOULEBENCH_INSTRUMENT": "1", "JOULEBENCH_RUN_ID": "r"}
    with ModelServer([SAID, SAID]) as server:
        done = run(tmp_path, *command, *pytest_command, OLLAMA_HOST=server.ollama_url, **alone)
    assert done.returncode == 1, done.stderr
    assert "1 failed, 2 passed" in done.stdout
    assert sorted(str(event["task_name"]) for event in events(tmp_path, "TASK_START")) == expected
    assert len(events(tmp_path, "LLM_QUERY_END")) == 2
    if "pytest" not in expected:
        verdicts = {str(event["task_id"]).rpartition(":")[2]: event["success"] for event in events(tmp_path, "TASK_END")}
        assert (verdicts["test_words[1]"], verdicts["test_words[2]"]) == (True, False)


def test_one_variable_turns_it_on_without_the_launcher(tmp_path: Path) -> None:
    need_package("ollama")
    where = run(tmp_path, "-m", "joulebench.mcpworld.startup").stdout.strip()
    (tmp_path / "agent.py").write_text("import ollama\nollama.chat('m', [{'role': 'user', 'content': 'say'}])\n")
    with ModelServer([SAID]) as server:
        done = run(tmp_path, str(tmp_path / "agent.py"), OLLAMA_HOST=server.ollama_url, PYTHONPATH=where)
    assert done.returncode == 0, done.stderr
    assert [event["task_name"] for event in events(tmp_path, "TASK_START")] == ["agent.py"]
    assert [event["completion_tokens"] for event in events(tmp_path, "LLM_QUERY_END")] == [SAID.completion_tokens]


def test_the_variable_turns_it_off_under_the_launcher(tmp_path: Path) -> None:
    need_package("ollama")
    with ModelServer([SAID]) as server:
        code = "import ollama; ollama.chat('m', [{'role': 'user', 'content': 'say'}])"
        command = ["-m", "joulebench.cli", "run", "--run-id", "r", "--", sys.executable, "-c", code]
        done = run(tmp_path, *command, OLLAMA_HOST=server.ollama_url, JOULEBENCH_INSTRUMENT="0")
    assert done.returncode == 1
    assert "no task was measured" in done.stderr
    assert not events(tmp_path, "LLM_QUERY_END")
