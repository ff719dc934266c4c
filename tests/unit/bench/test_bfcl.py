"""BFCL as a workload: its known answers pass its own checkers through our stages, wrong ones fail, and nothing else is run."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from joulebench.bench.agent import Agent, Outcome
from joulebench.bench.bfcl import package, suite
from joulebench.bench.bfcl.multi_turn import STEPS_PER_TURN, MultiTurnTask, written
from joulebench.bench.bfcl.single_turn import SingleTurnTask
from joulebench.bench.stage import Result, Stage, Work
from joulebench.errors import UserError
from joulebench.llm.chat import Reply, ToolCall
from joulebench.push.run import Run
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import Turn, call, call_text, say
from tests.unit.bench.conftest import CLOCK, NOWHERE, journal, of_type, openai


@pytest.fixture(scope="module", autouse=True)
def the_package() -> None:
    for name in ("bfcl_eval", "mpmath"):
        if importlib.util.find_spec(name) is None:
            if os.environ.get("CI") == "true":
                pytest.fail(f"{name} is not installed; {package.INSTALL}")
            pytest.skip(f"{name} is not installed; {package.INSTALL}")


def single(category: str, id_: str) -> SingleTurnTask:
    (task,) = suite.load(f"bfcl:{category}", 0).only(id_).tasks
    assert isinstance(task, SingleTurnTask)
    return task


def graded(task: Work, *calls: ToolCall) -> Result:
    with task.stage() as stage:
        stage.opening()
        for one in calls:
            stage.use(one)
        stage.replied(Reply("", calls))
        assert stage.over
        return stage.result()


def request(name: str, **arguments: object) -> ToolCall:
    return ToolCall(name, json.dumps(arguments), arguments)


def right(task: SingleTurnTask) -> list[ToolCall]:
    """The known answer; of each argument the first value that is accepted."""
    calls = []
    for one in task.answer:
        ((name, arguments),) = one.items()
        calls.append(request(name.replace(".", "_"), **first_of(arguments)))
    return calls


def first_of(arguments: dict[str, list[Any]]) -> dict[str, object]:
    """Objects list the accepted values of each member in turn; "" accepts that a value is left out."""
    first = {key: values[0] for key, values in arguments.items() if values[0] != ""}
    return {key: first_of(value) if isinstance(value, dict) else value for key, value in first.items()}


@pytest.mark.parametrize("category", ["simple", "multiple", "parallel", "live_parallel"])
def test_known_answers_pass_and_others_do_not(category: str) -> None:
    for task in suite.load(f"bfcl:{category}:10", 0).tasks:
        assert isinstance(task, SingleTurnTask)
        calls = right(task)
        assert graded(task, *calls) == Result(True, "")
        assert graded(task, *calls[1:]).passed is False
        assert graded(task, *calls, calls[0]).passed is False


def test_why_a_call_is_wrong_is_told() -> None:
    task = single("simple", "simple_python_0")
    wrong = graded(task, request("calculate_triangle_area", base=10, height=6))
    assert (wrong.passed, "height" in wrong.reason) == (False, True)
    assert graded(task).reason == "no call was made"
    broken = graded(task, ToolCall("calculate_triangle_area", "{", None, "the arguments are not JSON"))
    assert broken.reason == "malformed: the arguments are not JSON"
    assert "not an object" in graded(task, ToolCall("calculate_triangle_area", "[]", [])).reason


def test_where_no_tool_fits_no_call_is_right() -> None:
    task = single("irrelevance", "irrelevance_0")
    assert graded(task).passed
    assert not graded(task, request("determine_body_mass_index", weight=1, height=1)).passed


def test_outcomes_are_those_of_the_declared_schema() -> None:
    with single("simple", "simple_python_1").stage() as stage:
        assert [tool.name for tool in stage.specs] == ["math_factorial"]
        assert stage.use(request("math_factorial", number=5)).outcome == "ok"
        assert stage.use(request("math_factorial", number="5")).outcome == "schema_invalid"
        assert stage.use(request("factorial", number=5)).outcome == "undeclared"


@pytest.mark.parametrize("category", suite.CATEGORIES)
def test_functions_become_tools_that_servers_take(category: str) -> None:
    for task in suite.load(f"bfcl:{category}:15", 0).tasks:
        with task.stage() as stage:
            for tool in stage.specs:
                jsonschema.Draft202012Validator.check_schema(dict(tool.parameters))
                assert tool.name.replace("_", "").replace("-", "").isalnum()
                assert tool.parameters["type"] == "object"


def test_examples_stand_before_the_question() -> None:
    (task,) = suite.load("bfcl:simple:1", 2).tasks
    with task.stage() as stage:
        roles = [message.role for message in stage.opening()]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]


def known_turns(task: MultiTurnTask, stage: Stage) -> list[list[ToolCall]]:
    """The known answer, which is Python text, as calls with named arguments."""
    names = {tool.name: list(_properties(tool.parameters)) for tool in stage.specs}
    turns = []
    for turn in task.answer:
        calls = []
        for text in turn:
            node = ast.parse(text, mode="eval").body
            assert isinstance(node, ast.Call)
            assert isinstance(node.func, ast.Name)
            arguments = dict(zip(names[node.func.id], map(ast.literal_eval, node.args), strict=False))
            arguments |= {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}
            calls.append(request(node.func.id, **arguments))
        turns.append(calls)
    return turns


def _properties(schema: Any) -> dict[str, object]:
    return dict(schema["properties"])


def played(task: MultiTurnTask, *, leave_out: int | None = None) -> Result:
    with task.stage() as stage:
        stage.opening()
        number = 0
        for turn in known_turns(task, stage):
            for one in turn:
                number += 1
                if number == leave_out:
                    continue
                stage.use(one)
                assert not stage.replied(Reply("", (one,)))
            said = stage.replied(Reply("Done."))
            assert stage.over or said[0].role == "user"
        assert stage.over
        return stage.result()


def multi_turn(number: int) -> MultiTurnTask:
    (task,) = suite.load("bfcl:multi_turn_base", 0).only(f"multi_turn_base_{number}").tasks
    assert isinstance(task, MultiTurnTask)
    return task


@pytest.mark.parametrize("number", [0, 25, 60, 110, 160, 173])
def test_known_conversations_pass_as_often_as_they_are_played(number: int) -> None:
    """173: a call of the known answer breaks its schema; as in the benchmark it is run all the same."""
    task = multi_turn(number)
    assert [played(task).passed for _ in range(2)] == [True, True]
    assert not played(task, leave_out=1).passed


def test_a_conversation_without_end_fails() -> None:
    with multi_turn(0).stage() as stage:
        stage.opening()
        while not stage.over:
            stage.use(request("ls"))
            stage.replied(Reply("", (request("ls"),)))
        assert stage.result() == Result(False, "turn 1 was not answered after 20 steps")


def test_simulators_answer_and_fail_like_tools() -> None:
    with multi_turn(0).stage() as stage:
        assert stage.use(request("pwd")).outcome == "ok"
        assert stage.use(request("cd", folder="nowhere")).outcome == "tool_error"
        assert stage.use(request("_load_scenario", scenario={})).outcome == "undeclared"
        assert stage.use(request("cd", **{"folder)": 1, "folder": "x"})).outcome == "schema_invalid"


def test_arguments_stay_text_when_the_checker_runs_them(tmp_path: Path) -> None:
    """The checker evaluates calls as Python: an argument must not get out of its quotes."""
    trap = tmp_path / "trap"
    text = f"') or open({str(trap)!r}, 'w') or ('"
    assert ast.literal_eval(written("f", {"x": text}).removeprefix("f(x=").removesuffix(")")) == text
    with multi_turn(0).stage() as stage:
        stage.opening()
        stage.use(request("cd", folder=text))
        stage.replied(Reply("", (request("cd", folder=text),)))
        while not stage.over:
            stage.replied(Reply("Done."))
        assert not stage.result().passed
    assert not trap.exists()


@pytest.mark.parametrize(
    ("turn", "status", "outcomes"),
    [
        (call("calculate_triangle_area", base=10, height=5), "success", ["ok"]),
        (call("calculate_triangle_area", base=10), "failure", ["schema_invalid"]),
        (call("area", base=10, height=5), "failure", ["undeclared"]),
        (call_text("calculate_triangle_area", '{"base": '), "failure", ["malformed"]),
        (say("25"), "failure", []),
    ],
)
def test_a_task_is_one_call_of_the_model_and_its_grade(
    turn: Turn, status: str, outcomes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PROMETHEUS", "EXPORTER"):
        monkeypatch.delenv(f"JOULEBENCH_{name}_URL", raising=False)
    task = single("simple", "simple_python_0")
    outcome = Outcome(task.id)
    with (
        ModelServer([turn]) as server,
        Run("m", "bfcl-simple", gateway_url=NOWHERE, runs_dir=tmp_path, drain_seconds=0.0) as run,
    ):
        Agent(run, openai(server), CLOCK).work(task, outcome)
    events = journal(run.directory)
    assert [one["status"] for one in of_type(events, "TASK_END")] == [status]
    assert [one["outcome"] for one in of_type(events, "TOOL_CALL_END")] == outcomes
    assert len(of_type(events, "LLM_QUERY_END")) == 1
    if status == "success":
        (start,) = of_type(events, "TOOL_CALL_START")
        assert (start["span_status"], start["confidence"]) == ("ok", pytest.approx(0.99**2, abs=0.02))


def test_the_agent_plays_a_conversation_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROMETHEUS", "EXPORTER"):
        monkeypatch.delenv(f"JOULEBENCH_{name}_URL", raising=False)
    task = multi_turn(25)
    with task.stage() as stage:
        turns = known_turns(task, stage)
    script = [turn for calls in turns for turn in (*(call_text(one.name, one.raw_arguments) for one in calls), say("Done."))]
    outcome = Outcome(task.id)
    with (
        ModelServer(script) as server,
        Run("m", "bfcl-multi-turn-base", gateway_url=NOWHERE, runs_dir=tmp_path, drain_seconds=0.0) as run,
    ):
        Agent(run, openai(server), CLOCK).work(task, outcome)
    assert (outcome.status, outcome.reason) == ("success", "")
    assert outcome.turns == len(script)
    ends = of_type(journal(run.directory), "TOOL_CALL_END")
    assert [one["outcome"] for one in ends] == ["ok"] * sum(map(len, turns))


def test_a_model_that_repeats_itself_is_graded_after_as_many_steps_as_in_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PROMETHEUS", "EXPORTER"):
        monkeypatch.delenv(f"JOULEBENCH_{name}_URL", raising=False)
    task = multi_turn(25)
    outcome = Outcome(task.id)
    with (
        ModelServer([call("ls")] * STEPS_PER_TURN) as server,
        Run("m", "bfcl-multi-turn-base", gateway_url=NOWHERE, runs_dir=tmp_path, drain_seconds=0.0) as run,
    ):
        Agent(run, openai(server), CLOCK).work(task, outcome)
    assert (outcome.status, outcome.turns) == ("failure", STEPS_PER_TURN)
    assert outcome.reason == f"turn 1 was not answered after {STEPS_PER_TURN} steps"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("bfcl:simple_java", "no category of BFCL that is run here; there are simple, multiple"),
        ("bfcl:simple:none", "'none' is not a number of tasks"),
        ("bfcl:", "no category"),
    ],
)
def test_wrong_suites_are_told(name: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        suite.load(name, 0)


def test_a_missing_package_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bfcl_eval", None)
    with pytest.raises(UserError, match="pip install --no-deps bfcl-eval"):
        suite.load("bfcl:simple", 0)


def test_the_checker_brings_no_client_library() -> None:
    package.check_calls(*_first_simple())
    assert not {name for name in sys.modules if name.startswith(("bfcl_eval.model_handler", "openai", "anthropic"))}
    assert "bfcl_eval.constants.model_config" not in sys.modules


def _first_simple() -> tuple[list[package.Entry], list[dict[str, object]], list[object], str]:
    task = single("simple", "simple_python_0")
    return task.entry["function"], [{"calculate_triangle_area": {"base": 10, "height": 5}}], list(task.answer), "simple"
