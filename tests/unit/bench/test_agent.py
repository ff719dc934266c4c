"""The agent loop against a server whose tokens are known: every number in the journal is one that the script fixed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from joulebench.llm.chat import ChatModel
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import Fault, Turn, call, call_text, say, swallowed
from tests.unit.bench.conftest import Work, of_type, ollama, openai, write_hello

Client = Callable[[ModelServer], ChatModel]


def prompted(server: ModelServer) -> ChatModel:
    return openai(server, "prompt")


def whole(server: ModelServer) -> ChatModel:
    return openai(server, stream=False)


def ollama_prompted(server: ModelServer) -> ChatModel:
    return ollama(server, "prompt")


CLIENTS: list[Client] = [openai, whole, prompted, ollama, ollama_prompted]
RIGHT = call("write_file", path="out.txt", text="hello").with_(prompt_tokens=120, prefill_ms=40, decode_ms=300, load_ms=10)
DONE = call("finish", answer="done").with_(prompt_tokens=150, silent_tokens=1, prefill_ms=60, decode_ms=200, load_ms=0)


@pytest.mark.parametrize("client", CLIENTS)
def test_counts_tokens_and_server_times_exactly(client: Client, work: Work) -> None:
    with ModelServer([RIGHT, DONE]) as server:
        outcome, events = work(client(server), write_hello())
    ends = of_type(events, "LLM_QUERY_END")
    assert outcome.status == "success"
    assert [end["prompt_tokens"] for end in ends] == [120, 150]
    assert [end["completion_tokens"] for end in ends] == [len(RIGHT.tokens), len(DONE.tokens) + 1]
    assert [end["prefill_seconds"] for end in ends] == pytest.approx([0.04, 0.06])
    assert [end["decode_seconds"] for end in ends] == pytest.approx([0.3, 0.2])
    assert [end["decode_tokens"] for end in ends] == [RIGHT.completion_tokens, DONE.completion_tokens]
    assert outcome.tokens_per_second == pytest.approx((RIGHT.completion_tokens + DONE.completion_tokens) / 0.5)
    assert of_type(events, "TASK_END")[0]["status"] == "success"
    assert [event["step_index"] for event in of_type(events, "KEY_STEP_COMPLETED")] == [1]


@pytest.mark.parametrize("client", CLIENTS)
def test_confidence_is_that_of_the_least_likely_argument(client: Client, work: Work) -> None:
    unsure = RIGHT.with_(chances={"hello": 0.42})
    with ModelServer([unsure, DONE]) as server:
        outcome, events = work(client(server), write_hello())
    first, second = of_type(events, "TOOL_CALL_START")
    assert (first["tool_name"], first["args"]) == ("write_file", {"path": "out.txt", "text": "hello"})
    assert (first["span_status"], first["confidence"]) == ("ok", pytest.approx(0.42))
    assert second["confidence"] == pytest.approx(0.99)
    assert outcome.confidences == pytest.approx([0.42, 0.99])


MALFORMED = swallowed('<tool_call>\n{"name": "write_file", "arguments": {"path": "out.txt"\n</tool_call>')
UNDECLARED = swallowed('<tool_call>\n{"name": "copy_file", "arguments": {"path": "a"}}\n</tool_call>')


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("wrong", "outcome"),
    [
        (MALFORMED, "malformed"),
        (UNDECLARED, "undeclared"),
        (call("copy_file", path="a", to="b"), "undeclared"),
        (call("write_file", path="out.txt"), "schema_invalid"),
        (call("write_file", path="out.txt", text="hello", mode="w"), "schema_invalid"),
        (call("write_file", path="../out.txt", text="hello"), "tool_error"),
        (call("read_file", path="nothing.txt"), "tool_error"),
    ],
)
def test_a_wrong_call_is_an_outcome_and_the_task_goes_on(client: Client, wrong: Turn, outcome: str, work: Work) -> None:
    with ModelServer([wrong, RIGHT, DONE]) as server:
        result, events = work(client(server), write_hello())
    ends = of_type(events, "TOOL_CALL_END")
    assert [end["outcome"] for end in ends] == [outcome, "ok", "ok"]
    assert ends[0]["error"]
    assert result.status == "success"


@pytest.mark.parametrize("client", [openai, ollama])
def test_calls_that_the_server_drops_beside_one_that_it_gives_are_outcomes_in_their_order(client: Client, work: Work) -> None:
    both = Turn(raw=UNDECLARED.raw + RIGHT.raw + MALFORMED.raw, calls=RIGHT.calls)
    with ModelServer([both, DONE]) as server:
        result, events = work(client(server), write_hello())
    assert [end["outcome"] for end in of_type(events, "TOOL_CALL_END")] == ["undeclared", "ok", "malformed", "ok"]
    starts = of_type(events, "TOOL_CALL_START")
    assert [start["tool_name"] for start in starts[:3]] == ["copy_file", "write_file", "write_file"]
    assert [start["span_status"] for start in starts[:2]] == ["ok", "ok"]
    assert starts[2]["confidence"] is None
    assert result.status == "success"


@pytest.mark.parametrize("client", [openai, ollama])
@pytest.mark.parametrize("wrong", [MALFORMED, UNDECLARED])
def test_a_dropped_call_is_shown_to_the_model_as_it_wrote_it(client: Client, wrong: Turn, work: Work) -> None:
    """Never as a call with the text as its argument, which a model copies, and each turn would wrap it once more."""
    with ModelServer([wrong, RIGHT, DONE]) as server:
        work(client(server), write_hello())
        second, third = (exchange.body["messages"] for exchange in server.exchanges[1:])
    assert isinstance(second, list)
    assert isinstance(third, list)
    assert second[-2] == {"role": "assistant", "content": wrong.raw}
    assert second[-1]["role"] == "user"
    assert second[-1]["content"].startswith("Result of ")
    # The next call is one that the server gave.
    assert [message["role"] for message in third[-2:]] == ["assistant", "tool"]
    assert third[: len(second)] == second


def test_arguments_that_are_not_json_are_malformed(work: Work) -> None:
    with ModelServer([call_text("write_file", '{"path": "out.txt", '), RIGHT, DONE]) as server:
        result, events = work(openai(server), write_hello())
    start, end = of_type(events, "TOOL_CALL_START")[0], of_type(events, "TOOL_CALL_END")[0]
    assert (start["tool_name"], start["args"], end["outcome"]) == ("write_file", '{"path": "out.txt", ', "malformed")
    assert result.status == "success"


def test_an_answer_in_words_ends_the_task(work: Work) -> None:
    with ModelServer([say("I cannot do that.")]) as server:
        result, events = work(openai(server), write_hello())
    assert (result.status, result.reason) == ("failure", "file_equals: out.txt does not exist")
    assert of_type(events, "TOOL_CALL_START") == []


def test_turns_are_bounded(work: Work) -> None:
    turns = [call("write_file", path=f"{number}.txt", text="x") for number in range(5)]
    with ModelServer(turns) as server:
        result, _ = work(openai(server), write_hello(max_turns=4))
        assert len(server.exchanges) == 4
    assert (result.status, result.reason) == ("failure", "not finished after 4 turns")


def test_the_same_call_over_and_over_is_given_up(work: Work) -> None:
    with ModelServer([call("list_files")] * 9) as server:
        result, events = work(openai(server), write_hello(max_turns=9))
    assert result.turns == len(of_type(events, "TOOL_CALL_END")) == 3
    assert (result.status, result.reason) == ("failure", "the same call 3 times over")


@pytest.mark.parametrize("client", [openai, prompted, ollama])
@pytest.mark.parametrize("fault", ["cut", "error_mid_stream", "not_json", "http_500", "hang_up"])
def test_a_server_that_fails_is_an_error_of_the_call_and_the_task(client: Client, fault: Fault, work: Work) -> None:
    with ModelServer([RIGHT, DONE.with_(fault=fault)]) as server:
        result, events = work(client(server), write_hello())
    first, second = of_type(events, "LLM_QUERY_END")
    assert (first["status"], first["prompt_tokens"]) == ("success", 120)
    assert (second["status"], second["prompt_tokens"]) == ("error", None)
    assert second["error"]
    assert (result.status, result.unreachable) == ("error", False)
    assert of_type(events, "TASK_END")[0]["status"] == "error"


@pytest.mark.parametrize("client", [openai, whole, ollama])
def test_a_stalled_server_is_a_timeout_that_keeps_what_was_measured(client: Client, work: Work) -> None:
    stalled = DONE.with_(fault="stall", first_token_after=30.0) if client is whole else DONE.with_(fault="stall")
    with ModelServer([RIGHT, stalled]) as server:
        result, events = work(client(server), write_hello(timeout_seconds=1.0))
    first, second = of_type(events, "LLM_QUERY_END")
    assert first["completion_tokens"] == RIGHT.completion_tokens
    assert second["status"] == "error"
    (end,) = of_type(events, "TASK_END")
    assert (result.status, end["status"], end["success"]) == ("timeout", "timeout", False)
    assert 1.0 <= end["duration_seconds"] < 5.0


def test_a_reply_that_trickles_is_stopped_at_the_deadline(work: Work) -> None:
    with ModelServer([RIGHT.with_(token_gap=0.2)]) as server:
        result, events = work(openai(server), write_hello(timeout_seconds=1.0))
    assert result.status == "timeout"
    assert of_type(events, "TASK_END")[0]["duration_seconds"] < 3.0


def test_no_server_at_all(work: Work) -> None:
    with ModelServer([]) as server:
        model = openai(server)
    result, events = work(model, write_hello())
    assert (result.status, result.unreachable) == ("error", True)
    (end,) = of_type(events, "LLM_QUERY_END")
    assert end["status"] == "error"
