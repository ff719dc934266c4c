"""Request targets, the bounds of what is kept, and the judgement of tool calls."""

from __future__ import annotations

import itertools

import pytest

from joulebench import metrics as m
from joulebench.confidence.measures import CallConfidence
from joulebench.llm.readers import Api, parse_tool_call, reader_for
from joulebench.llm.reply import Reply, ToolCall
from joulebench.metrics.families import Sheet
from joulebench.proxy.accounting import ToolCallOutcome, judge_tool_calls
from joulebench.proxy.metrics import MAX_HISTOGRAM_RUNS, OTHER_MODELS, ProxyMetrics
from joulebench.proxy.request import RequestTarget, metered_api, parse_request, parse_target
from joulebench.proxy.schema_check import evaluate

HEADERS = {"X-Joulebench-Run": "hr", "X-Joulebench-Task": "ht"}


@pytest.mark.parametrize(
    ("target", "headers", "expected"),
    [
        ("/v1/models?x=1", {}, RequestTarget("", "", "/v1/models?x=1")),
        ("/v1/models", HEADERS, RequestTarget("hr", "ht", "/v1/models")),
        ("/run/r1/task/t1/v1/models", HEADERS, RequestTarget("r1", "t1", "/v1/models")),
        ("/run/r1/v1/models", HEADERS, RequestTarget("r1", "ht", "/v1/models")),
        ("/run/r1/task/sort%20a%2Flist/api/chat?q=%20", {}, RequestTarget("r1", "sort a/list", "/api/chat?q=%20")),
        ("/run/r1/task/t1", {}, RequestTarget("r1", "t1", "/")),
        ("/run/r1/task/t1?x", {}, RequestTarget("r1", "t1", "/?x")),
        ("/run/r1/tasks/t1", {}, RequestTarget("r1", "", "/tasks/t1")),
        ("/running/r1", {}, RequestTarget("", "", "/running/r1")),
        ("/run/%00%0a/task/%ff/v1", {}, RequestTarget("", "\ufffd", "/v1")),
    ],
)
def test_run_and_task_are_taken_from_prefix_or_headers(target: str, headers: dict[str, str], expected: RequestTarget) -> None:
    assert parse_target("GET", target, headers) == expected


def test_only_posts_to_completions_are_metered() -> None:
    assert metered_api("POST", "/v1/chat/completions") is Api.OPENAI_CHAT
    assert metered_api("POST", "/base/v1/completions") is Api.OPENAI_TEXT
    assert metered_api("POST", "/api/generate") is Api.OLLAMA_TEXT
    assert metered_api("GET", "/api/chat") is None
    assert metered_api("POST", "/api/pull") is None


def test_ollama_streams_unless_told_not_to_and_the_others_only_when_told() -> None:
    streams = [
        (api, body, request.stream)
        for api, body in itertools.product((Api.OPENAI_CHAT, Api.OLLAMA_CHAT), (b"{}", b'{"stream":false}'))
        if (request := parse_request(api, body)) is not None
    ]
    assert [stream for *_, stream in streams] == [False, False, True, False]


def told(metrics: ProxyMetrics) -> dict[str, list[tuple[dict[str, str], float]]]:
    sheet = Sheet()
    metrics.collect(sheet)
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in sheet.families():
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_tasks_and_models_have_a_bound_and_the_longest_idle_goes_first() -> None:
    metrics = ProxyMetrics(max_tasks=3, max_models=2)
    for number in range(6):
        key = metrics.key("r", f"t{number}", f"m{number}")
        metrics.begin(key, 1.0)
        metrics.end(key, "ok", 1.0, 2.0)
        back = metrics.key("r", "t0", "m0")
        metrics.begin(back, 1.0)
        metrics.end(back, "ok", 1.0, 2.0)
    series = told(metrics)[m.PROXY_REQUESTS.name]
    assert sorted((labels["task_id"], labels["model"], value) for labels, value in series) == [
        ("t0", "m0", 7.0),
        ("t4", OTHER_MODELS, 1.0),
        ("t5", OTHER_MODELS, 1.0),
    ]
    assert told(metrics)[m.PROXY_FORGOTTEN_TASKS.name] == [({}, 3.0)]


def test_what_nobody_told_has_no_series() -> None:
    metrics = ProxyMetrics()
    key = metrics.key("r", "t", "m")
    metrics.count_reply(key, 1.0, 3.5, Reply(), [ToolCallOutcome("malformed", CallConfidence("no_logprobs", "f", None, {}))])
    names = set(told(metrics))
    assert m.PROXY_COMPLETION_TOKENS.name not in names
    assert f"{m.PROXY_DECODE.name}_sum" not in names
    assert f"{m.PROXY_TASK_CONFIDENCE.name}_sum" not in names
    assert f"{m.PROXY_TASK_TTFT.name}_sum" not in names
    assert told(metrics)[f"{m.PROXY_TASK_DURATION.name}_sum"] == [({"run_id": "r", "task_id": "t", "model": "m"}, 2.5)]


def test_decode_is_seen_in_the_arrivals_where_the_server_does_not_time_it() -> None:
    metrics = ProxyMetrics()
    reader = reader_for(Api.OPENAI_CHAT)
    reply = reader.reply
    reply.completion_tokens = 4
    for now in (10.0, 10.5, 11.0, 12.0):
        reply.arrivals.add(now)
    metrics.count_reply(metrics.key("", "", "m"), 9.0, 12.0, reader.finish(), [])
    seen = told(metrics)
    assert seen[f"{m.PROXY_DECODE.name}_sum"][0][1] == 2.0
    assert seen[m.PROXY_DECODE_TOKENS.name][0][1] == 3.0
    assert seen[f"{m.PROXY_TASK_TTFT.name}_sum"][0][1] == 1.0


@pytest.mark.parametrize(("counted", "problem"), [(8, None), (4, "one_choice")])
def test_usage_that_covers_one_of_several_choices_is_flagged(counted: int, problem: str | None) -> None:
    reader = reader_for(Api.OPENAI_CHAT)
    for number in range(8):
        reader.read({"choices": [{"index": number % 2, "delta": {"content": "x"}}]}, float(number))
    reader.read({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": counted}}, 9.0)
    reply = reader.finish()
    assert (reply.choices, reply.problem, reply.arrivals.count) == (2, problem, 4)


@pytest.mark.parametrize(
    ("api", "counted", "has_no_echo", "problem"),
    [
        (Api.OPENAI_CHAT, 16, False, None),
        (Api.OPENAI_CHAT, 8, False, "one_choice"),
        (Api.OPENAI_TEXT, 1, False, None),
        (Api.OPENAI_TEXT, 16, True, None),
        (Api.OPENAI_TEXT, 8, True, "one_choice"),
    ],
)
def test_usage_of_a_reply_at_once_that_covers_one_of_several_choices_is_flagged(
    api: Api, counted: int, *, has_no_echo: bool, problem: str | None
) -> None:
    """Plain completions may repeat the prompt (``echo``): then their words prove nothing."""
    text = "one two three four five six seven eight"
    words = {"message": {"content": text}} if api is Api.OPENAI_CHAT else {"text": text}
    choices = [{"index": number, "finish_reason": "stop", **words} for number in range(2)]
    reader = reader_for(api, has_no_echo=has_no_echo)
    reader.read({"choices": choices, "usage": {"prompt_tokens": 3, "completion_tokens": counted}}, None)
    reply = reader.finish()
    assert (reply.choices, reply.problem) == (2, problem)


@pytest.mark.parametrize(
    ("member", "echo"), [("", False), (', "echo": false', False), (', "echo": null', False), (', "echo": true', True)]
)
def test_a_request_says_whether_its_prompt_comes_back(member: str, *, echo: bool) -> None:
    request = parse_request(Api.OPENAI_TEXT, f'{{"prompt": ["a", "b"]{member}}}'.encode())
    assert request is not None
    assert request.echo is echo


def test_one_choice_at_once_is_not_flagged() -> None:
    reader = reader_for(Api.OPENAI_CHAT)
    reader.read({"choices": [{"index": 0, "message": {"content": "a b c d e f"}}], "usage": {"completion_tokens": 2}}, None)
    assert reader.finish().problem is None


def test_histograms_of_runs_are_apart_and_bounded() -> None:
    metrics = ProxyMetrics()
    for number in range(MAX_HISTOGRAM_RUNS + 2):
        metrics.count_reply(metrics.key(f"r{number}", "t", "m"), 1.0, 2.0, Reply(), [])
        metrics.count_reply(metrics.key("r0", "t", "m"), 1.0, 2.0, Reply(), [])
    counts = {labels["run_id"]: value for labels, value in told(metrics)[f"{m.PROXY_DURATION.name}_count"]}
    assert len(counts) == MAX_HISTOGRAM_RUNS
    assert counts["r0"] == MAX_HISTOGRAM_RUNS + 3
    assert "r1" not in counts


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (parse_tool_call("f", '{"path": "a"}'), "ok"),
        (ToolCall("f", "", {"path": "a"}), "ok"),
        (parse_tool_call("f", ""), "schema_invalid"),
        (parse_tool_call("f", '{"path": 1}'), "schema_invalid"),
        (parse_tool_call("f", '{"path": '), "malformed"),
        (parse_tool_call("f", "[1]"), "malformed"),
        (parse_tool_call("g", '{"path": "a"}'), "undeclared"),
        (parse_tool_call("remote", "{}"), "ok"),
        (parse_tool_call("broken", '{"x": 1}'), "ok"),
        (parse_tool_call("free", '{"x": 1}'), "ok"),
    ],
)
def test_a_call_is_judged_by_what_was_declared(call: ToolCall, outcome: str) -> None:
    """A schema that refers to somewhere else, or is none, is not held against the call, and nothing is fetched for it."""
    tools: dict[str, dict[str, object]] = {
        "f": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
        "remote": {"$ref": "http://127.0.0.1:9/schema.json"},
        "broken": {"type": 5},
        "free": {},
    }
    assert [judged.outcome for judged in judge_tool_calls(Reply(tool_calls=(call,)), tools, evaluate)] == [outcome]


@pytest.mark.parametrize(
    ("text", "outcomes"),
    [
        ('{"name": "f", "arguments": {"path": "a"}}', ["ok"]),
        ('I will.\n```json\n{"name": "f", "parameters": {"path": "a"}}\n```', ["ok"]),
        ('{"function": {"name": "f", "arguments": "{\\"path\\": \\"a\\"}"}}', ["ok"]),
        ('{"name": "f", "arguments": {"path": 1}}', ["schema_invalid"]),
        ('{"name": "f", "arguments": {"path": ', ["malformed"]),
        ('{"name": "g", "arguments": {"path": "a"}}', ["undeclared"]),
        ('[f(path="a")]', ["unchecked"]),
        ('<tool_call>{"name": "f", "arguments": {"path": "a"}}', ["malformed"]),
        ("no call", []),
    ],
)
def test_a_call_that_stands_as_json_in_the_text_is_judged_as_the_client_reads_it(text: str, outcomes: list[str]) -> None:
    tools: dict[str, dict[str, object]] = {
        "f": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    }
    assert [judged.outcome for judged in judge_tool_calls(Reply(text=text), tools, evaluate)] == outcomes
