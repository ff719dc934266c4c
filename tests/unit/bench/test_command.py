"""``joulebench bench`` as a user types it, on the scripted server: exit codes, what is printed, and the journal of the run."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from joulebench import cli
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import MODEL, Json, Script, Turn, by_instruction, call, say
from tests.unit.bench.conftest import NOWHERE, Events, journal, of_type

SUITE = """
name: two
tasks:
  - id: write
    name: Write
    instruction: Write it.
    grade: [file_equals: {path: a.txt, text: x}]
  - id: answer
    name: Answer
    instruction: Say yes.
    grade: [answer_equals: {text: "yes"}]
"""
ANSWERS: Mapping[str, list[Turn]] = {
    "Write it.": [call("write_file", path="a.txt", text="x"), call("finish", answer="done")],
    "Say yes.": [say("no")],
}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    for name in ("GATEWAY", "PROMETHEUS", "EXPORTER"):
        monkeypatch.setenv(f"JOULEBENCH_{name}_URL", NOWHERE)
    monkeypatch.setenv("OLLAMA_HOST", NOWHERE)
    suite = tmp_path / "two.yaml"
    suite.write_text(SUITE, encoding="utf-8")
    return ["--suite", str(suite), "--runs-dir", str(tmp_path / "runs"), "--run-id", "r1"]


def events_of(tmp_path: Path) -> Events:
    return journal(tmp_path / "runs" / "r1")


def script() -> Script:
    return by_instruction(ANSWERS)


@pytest.mark.parametrize("shape", ["openai", "ollama"])
def test_a_run_with_a_failed_task_is_a_completed_run(
    shape: str, places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ModelServer(script()) as server:
        where = ["--base-url", server.openai_url] if shape == "openai" else ["--ollama-url", server.ollama_url]
        assert cli.main(["bench", "--model", MODEL, *where, *places]) == 0
    ends = of_type(events_of(tmp_path), "TASK_END")
    assert [(end["task_id"], end["status"]) for end in ends] == [("write", "success"), ("answer", "failure")]
    out = capsys.readouterr().out
    assert "1 of 2 tasks passed" in out
    assert f"joulebench export --run-id r1 --runs-dir {tmp_path / 'runs'}" in out
    told = json.loads((tmp_path / "runs" / "r1" / "transcripts" / "write.json").read_text())
    assert [message["role"] for message in told["messages"][-4:]] == ["assistant", "tool", "assistant", "tool"]


def test_workers_and_repeats_lose_nothing(places: list[str], tmp_path: Path) -> None:
    turns = {name: [turn.with_(token_gap=0.002) for turn in answers] for name, answers in ANSWERS.items()}
    with ModelServer(by_instruction(turns)) as server:
        command = ["bench", "--model", MODEL, "--base-url", server.openai_url, "--workers", "3", "--repeat", "4", *places]
        assert cli.main(command) == 0
    events = events_of(tmp_path)
    ends = of_type(events, "TASK_END")
    assert sorted(end["task_id"] for end in ends) == sorted(
        f"{task}{number}" for task in ("write", "answer") for number in ("", "#2", "#3", "#4")
    )
    assert [end["status"] for end in ends].count("success") == 4
    tokens = sum(end["completion_tokens"] for end in of_type(events, "LLM_QUERY_END"))
    assert tokens == 4 * sum(turn.completion_tokens for answers in ANSWERS.values() for turn in answers)
    assert of_type(events, "RUN_START")[0]["planned_tasks"] == 8


def test_chosen_tasks_only(places: list[str], tmp_path: Path) -> None:
    with ModelServer(script()) as server:
        assert cli.main(["bench", "--model", MODEL, "--base-url", server.openai_url, "--tasks", "wr*,x", *places]) == 0
    assert [event["task_id"] for event in of_type(events_of(tmp_path), "TASK_START")] == ["write"]


@pytest.mark.parametrize(("flag", "asked"), [("--warm-up", 3 + 1), ("--no-warm-up", 3)])
def test_a_warm_up_is_one_call_that_counts_for_no_task(flag: str, asked: int, places: list[str], tmp_path: Path) -> None:
    with ModelServer(script()) as server:
        flags = [flag, "--logprobs", "on"]
        assert cli.main(["bench", "--model", MODEL, "--base-url", server.openai_url, *flags, *places]) == 0
        assert len(server.exchanges) == asked
    events = events_of(tmp_path)
    assert len(of_type(events, "LLM_QUERY_END")) == 3
    assert len(of_type(events, "WARM_UP")) == asked - 3


def test_a_warm_up_has_the_form_of_the_suite_and_no_tasks_words(places: list[str]) -> None:
    pytest.importorskip("bfcl_eval")
    with ModelServer([say("Good day."), say("none"), say("none")]) as server:
        where = [
            "--base-url",
            server.openai_url,
            "--model",
            MODEL,
            "--suite",
            "bfcl:simple:2",
            "--examples",
            "1",
            "--logprobs=on",
        ]
        assert cli.main(["bench", *where, *places[2:]]) == 0
        warm_up, first, last = (exchange.body for exchange in server.exchanges)
    assert warm_up["tools"] == last["tools"] != first["tools"]
    assert isinstance(warm_up["messages"], list)
    assert isinstance(last["messages"], list)
    assert warm_up["messages"][:-1] == last["messages"][:-1]
    assert warm_up["messages"][-1] == {"role": "user", "content": "Good day."}


def test_settings_reach_the_server(places: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sesame")
    settings = ["--temperature", "0.7", "--max-tokens", "33", "--no-stream", "--tool-mode", "prompt", "--api-key-env", "MY_KEY"]
    with ModelServer(script()) as server:
        assert cli.main(["bench", "--model", MODEL, "--base-url", server.openai_url, *settings, *places]) == 0
        exchange = server.exchanges[0]
    assert exchange.authorization == "Bearer sesame"
    body = exchange.body
    assert (body["model"], body["temperature"], body["max_tokens"], body["stream"]) == (MODEL, 0.7, 33, False)
    assert "tools" not in body


def test_the_configuration_is_in_the_journal_and_in_every_result_file(places: list[str], tmp_path: Path) -> None:
    with ModelServer(script()) as server:
        where = ["--ollama-url", server.ollama_url, "--model", MODEL, "--context", "16384", "--tool-mode", "native"]
        assert cli.main(["bench", *where, *places]) == 0
        assert server.exchanges[-1].body["options"] == {"temperature": 0.0, "num_predict": 512, "num_ctx": 16384}
    wanted = {"tool_mode": "native", "stream": True, "temperature": 0.0, "max_tokens": 512, "num_ctx": 16384}
    (start,) = of_type(events_of(tmp_path), "RUN_START")
    assert start["configuration"] == {**wanted, "suite": places[1], "context_tokens": 16384}
    assert cli.main(["export", *places[2:], "--prometheus-url", NOWHERE]) == 0
    (file,) = (tmp_path / "runs" / "r1").glob("result_*_write.json")
    assert json.loads(file.read_text())["metadata"]["benchmark_configuration"] == start["configuration"]


@pytest.mark.parametrize("client", ["--base-url", "--ollama-url"])
def test_a_conversation_that_does_not_fit_is_no_failure_of_the_model(client: str, places: list[str], tmp_path: Path) -> None:
    """Neither a prompt that the server refuses for its length, nor a reply that it cuts off before its longest."""
    turns = {
        "Write it.": [say("").with_(fault="no_room")],
        "Say yes.": [say("no").with_(finish_reason="length")],
    }
    with ModelServer(by_instruction(turns)) as server:
        where = server.openai_url if client == "--base-url" else server.ollama_url
        assert cli.main(["bench", client, where, "--model", MODEL, "--no-warm-up", *places]) == 0
    ends = of_type(events_of(tmp_path), "TASK_END")
    assert [(end["status"], end["success"]) for end in ends] == [("error", None)] * 2
    assert all("context" in end["reason"] for end in ends)
    assert sum("messages" in exchange.body for exchange in server.exchanges) == 2


def test_a_server_that_is_not_there_is_exit_1(places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--model", "m", "--base-url", f"{NOWHERE}/v1", *places]) == 1
    assert cli.main(["bench", "--model", "m", "--ollama-url", NOWHERE, *places]) == 1
    err = capsys.readouterr().err
    assert "no model server answers" in err
    assert "--base-url http://127.0.0.1:" in err
    assert not (tmp_path / "runs").exists()


def test_a_model_that_the_server_does_not_list_is_named_with_those_it_lists(
    places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with ModelServer(script()) as server:
        flags = ["--no-warm-up", "--tasks", "write", *places]
        assert cli.main(["bench", "--base-url", server.openai_url, "--model", "other", *flags]) == 0
    assert f"does not list 'other'; it lists {MODEL}" in capsys.readouterr().err


@pytest.mark.parametrize(("gap", "verdict"), [(0.0, "cheap, so they are requested"), (0.08, "so they are not requested")])
def test_logprobs_are_requested_where_a_measurement_shows_them_cheap(
    gap: float, verdict: str, places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server takes ``gap`` seconds longer for each of three tokens where logprobs are asked for."""

    def turn(body: Json) -> Turn:
        return say("one two three").with_(token_gap=gap if body.get("logprobs") else 0.0)

    with ModelServer(turn) as server:
        assert cli.main(["bench", "--model", MODEL, "--base-url", server.openai_url, "--tasks", "write", *places]) == 0
        asked = ["logprobs" in exchange.body for exchange in server.exchanges]
    measured = 4 if gap else 2
    assert asked[: 1 + 2 * measured] == [True] + [True, False] * measured, "the warm-up, and pairs of the same call"
    assert set(asked[1 + 2 * measured :]) == {not gap}
    assert verdict in capsys.readouterr().out
    assert len(of_type(events_of(tmp_path), "WARM_UP")) == 1


def test_an_interrupted_run_names_the_command_for_its_results(places: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    asked = threading.Event()

    def interrupt(_: Json) -> Turn:
        if not asked.is_set():
            asked.set()
            os.kill(os.getpid(), signal.SIGINT)
        return say("no").with_(token_gap=0.2)

    with ModelServer(interrupt) as server:
        code = cli.main(["bench", "--base-url", server.openai_url, "--model", MODEL, "--no-warm-up", *places])
    assert code == 130
    assert "interrupted; results of the tasks so far: joulebench export --run-id r1" in capsys.readouterr().out


BAD: list[tuple[list[str], str]] = [
    ([], "no Ollama answers"),
    (["--base-url", "SERVER/v1"], "--model: name the model"),
    (["--ollama-url", "SERVER"], f"it has {MODEL}"),
    (["--ollama-url", "SERVER", "--model", "other"], "has no 'other'"),
    (["--embedded", "--model", "other"], "leave --model out"),
    (["--gguf", "no-such.gguf"], "--gguf: no-such.gguf: No such file"),
    (["--gguf", __file__], "is no GGUF file"),
    (["--base-url", "SERVER/v1", "--model", "m", "--context", "9000"], "leave --context out"),
    (["--base-url", "SERVER", "--model", "m"], "has no /models; give http"),
    (["--base-url", "nonsense", "--model", "m"], "--base-url: 'nonsense' is not a URL"),
    (["--base-url", "SERVER/v1", "--model", "m", "--api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY is not set"),
    (["--base-url", "SERVER/v1", "--model", "m", "--tasks", "zzz"], "no task of suite two matches"),
]


@pytest.mark.parametrize(("flags", "told"), BAD)
def test_bad_input_is_exit_2_and_says_how_to_mend_it(
    flags: list[str], told: str, places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ModelServer(script()) as server:
        assert cli.main(["bench", *(flag.replace("SERVER", server.ollama_url) for flag in flags), *places]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("flags", [["--repeat", "0"], ["--workers", "x"], ["--temperature", "-1"], ["--task-timeout", "inf"]])
def test_bad_numbers_are_refused_by_the_parser(flags: list[str], places: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *flags, *places]) == 2
    assert flags[0] in capsys.readouterr().err


def test_a_public_benchmark_is_a_suite(places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bfcl_eval")
    rest = [*places[2:], "--no-progress", "--idle-seconds", "0", "--no-warm-up"]
    turns = [call("calculate_triangle_area", base=10, height=5, unit="units"), call("math_factorial", number=4)]
    with ModelServer(turns) as server:
        where = ["--base-url", server.openai_url, "--model", MODEL, "--suite", "bfcl:simple:2"]
        assert cli.main(["bench", *where, *rest]) == 0
    assert "2 tasks of suite bfcl-simple" in capsys.readouterr().out
    statuses = [(end["task_id"], end["status"]) for end in of_type(events_of(tmp_path), "TASK_END")]
    assert statuses == [("simple_python_0", "success"), ("simple_python_1", "failure")]
    assert cli.main(["bench", "--examples", "2", *rest]) == 2
    assert "--examples: only bfcl suites take them" in capsys.readouterr().err
