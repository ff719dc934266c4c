"""Addresses, pieces of a stream, and the bounds of what is kept."""

from __future__ import annotations

import itertools

import pytest

from joulebench import metrics as m
from joulebench.confidence.measures import CallConfidence
from joulebench.metrics.families import Sheet
from joulebench.proxy.address import Address, address_of
from joulebench.proxy.asked import Protocol, asked_of, protocol_of
from joulebench.proxy.pieces import Cutter
from joulebench.proxy.reply import Call, Reply
from joulebench.proxy.tally import OTHER_MODELS, Tally
from joulebench.proxy.verdict import Verdict, verdicts

HEADERS = {"X-Joulebench-Run": "hr", "X-Joulebench-Task": "ht"}


@pytest.mark.parametrize(
    ("target", "headers", "address"),
    [
        ("/v1/models?x=1", {}, Address("", "", "/v1/models?x=1")),
        ("/v1/models", HEADERS, Address("hr", "ht", "/v1/models")),
        ("/run/r1/task/t1/v1/models", HEADERS, Address("r1", "t1", "/v1/models")),
        ("/run/r1/v1/models", HEADERS, Address("r1", "ht", "/v1/models")),
        ("/run/r1/task/sort%20a%2Flist/api/chat?q=%20", {}, Address("r1", "sort a/list", "/api/chat?q=%20")),
        ("/run/r1/task/t1", {}, Address("r1", "t1", "/")),
        ("/run/r1/task/t1?x", {}, Address("r1", "t1", "/?x")),
        ("/run/r1/tasks/t1", {}, Address("r1", "", "/tasks/t1")),
        ("/running/r1", {}, Address("", "", "/running/r1")),
        ("http://host:1/run/r/task/t/v1/x?y", {}, Address("r", "t", "/v1/x?y")),
        ("/run/%00%0a/task/%ff/v1", {}, Address("", "\ufffd", "/v1")),
    ],
)
def test_run_and_task_are_taken_from_prefix_or_headers(target: str, headers: dict[str, str], address: Address) -> None:
    assert address_of(target, headers) == address


def test_only_posts_to_completions_are_metered() -> None:
    assert protocol_of("POST", "/v1/chat/completions") is Protocol.OPENAI_CHAT
    assert protocol_of("POST", "/base/v1/completions") is Protocol.OPENAI_TEXT
    assert protocol_of("POST", "/api/generate") is Protocol.OLLAMA_TEXT
    assert protocol_of("GET", "/api/chat") is None
    assert protocol_of("POST", "/api/pull") is None


def test_ollama_streams_unless_told_not_to_and_the_others_only_when_told() -> None:
    streams = [
        (protocol, body, asked.stream)
        for protocol, body in itertools.product((Protocol.OPENAI_CHAT, Protocol.OLLAMA_CHAT), (b"{}", b'{"stream":false}'))
        if (asked := asked_of(protocol, body)) is not None
    ]
    assert [stream for *_, stream in streams] == [False, False, True, False]


STREAM = b'data: {"a": 1}\n\n: note\n\nevent: error\r\ndata: {"b":\r\ndata: 2}\r\n\r\ndata:[DONE]\n\nerror: {"c":3}\n\n'


def test_a_stream_falls_into_the_same_pieces_wherever_it_is_cut() -> None:
    whole = Cutter(events=True).feed(STREAM)
    assert [(piece.data, piece.event) for piece in whole] == [
        (b'{"a": 1}', b""),
        (b"", b""),
        (b'{"b":\n2}', b"error"),
        (b"[DONE]", b""),
        (b'{"c":3}', b"error"),
    ]
    for first, second in itertools.combinations(range(len(STREAM) + 1), 2):
        cutter = Cutter(events=True)
        parts = (STREAM[:first], STREAM[first:second], STREAM[second:])
        assert [piece for part in parts for piece in cutter.feed(part)] == whole
        assert cutter.rest() == b""


def test_a_piece_without_end_overflows() -> None:
    cutter = Cutter(events=False, limit=10)
    assert [piece.data for piece in cutter.feed(b"short\n" + b"x" * 11)] == [b"short"]
    assert cutter.overflowed


def told(tally: Tally) -> dict[str, list[tuple[dict[str, str], float]]]:
    sheet = Sheet()
    tally.collect(sheet)
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in sheet.families():
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_tasks_and_models_have_a_bound_and_the_longest_idle_goes_first() -> None:
    tally = Tally(max_tasks=3, max_models=2)
    for number in range(6):
        key = tally.key("r", f"t{number}", f"m{number}")
        tally.begin(key)
        tally.end(key, "ok")
        back = tally.key("r", "t0", "m0")
        tally.begin(back)
        tally.end(back, "ok")
    series = told(tally)[m.PROXY_REQUESTS.name]
    assert sorted((labels["task_id"], labels["model"], value) for labels, value in series) == [
        ("t0", "m0", 7.0),
        ("t4", OTHER_MODELS, 1.0),
        ("t5", OTHER_MODELS, 1.0),
    ]
    assert told(tally)[m.PROXY_FORGOTTEN_TASKS.name] == [({}, 3.0)]


def test_what_nobody_told_has_no_series() -> None:
    tally = Tally()
    key = tally.key("r", "t", "m")
    tally.reply(key, 1.0, 3.5, Reply(), [Verdict("malformed", CallConfidence("no_logprobs", "f", None, {}))])
    names = set(told(tally))
    assert m.PROXY_COMPLETION_TOKENS.name not in names
    assert f"{m.PROXY_DECODE.name}_sum" not in names
    assert f"{m.PROXY_TASK_CONFIDENCE.name}_sum" not in names
    assert f"{m.PROXY_TASK_TTFT.name}_sum" not in names
    assert told(tally)[f"{m.PROXY_TASK_DURATION.name}_sum"] == [({"run_id": "r", "task_id": "t", "model": "m"}, 2.5)]


def test_decode_is_seen_in_the_arrivals_where_the_server_does_not_time_it() -> None:
    tally = Tally()
    reply = Reply(completion_tokens=4)
    for now in (10.0, 10.5, 11.0, 12.0):
        reply.arrivals.token(now)
    tally.reply(tally.key("", "", "m"), 9.0, 12.0, reply, [])
    seen = told(tally)
    assert seen[f"{m.PROXY_DECODE.name}_sum"][0][1] == 2.0
    assert seen[m.PROXY_DECODE_TOKENS.name][0][1] == 3.0
    assert seen[f"{m.PROXY_TASK_TTFT.name}_sum"][0][1] == 1.0


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (Call("f", '{"path": "a"}'), "ok"),
        (Call("f", "", {"path": "a"}), "ok"),
        (Call("f", ""), "schema_invalid"),
        (Call("f", '{"path": 1}'), "schema_invalid"),
        (Call("f", '{"path": '), "malformed"),
        (Call("f", "[1]"), "malformed"),
        (Call("g", '{"path": "a"}'), "undeclared"),
        (Call("remote", "{}"), "ok"),
        (Call("broken", '{"x": 1}'), "ok"),
        (Call("free", '{"x": 1}'), "ok"),
    ],
)
def test_a_call_is_judged_by_what_was_declared(call: Call, outcome: str) -> None:
    """A schema that refers to somewhere else, or is none, is not held against the call, and nothing is fetched for it."""
    tools: dict[str, dict[str, object]] = {
        "f": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
        "remote": {"$ref": "http://127.0.0.1:9/schema.json"},
        "broken": {"type": 5},
        "free": {},
    }
    assert [verdict.outcome for verdict in verdicts(Reply(calls={0: call}), tools)] == [outcome]
