"""Mutated replies of every API, read by the reply parser and passed through the proxy's filter; seeded.

``python -m tests.unit.llm.fuzz --streams 100000`` prints what became of them; the test plays fewer.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from joulebench.llm.decoder import ReplyDecoder
from joulebench.llm.events import EventSplitter
from joulebench.llm.readers import Api
from joulebench.metrics.families import Sheet
from joulebench.parsing import Json
from joulebench.proxy.accounting import judge_tool_calls
from joulebench.proxy.metrics import ProxyMetrics
from joulebench.proxy.rewrite import ExtendedRequest, ResponseFilter
from joulebench.proxy.schema_check import UNCHECKED
from tests.fakes.model_shapes import OllamaShape, OpenAIShape
from tests.fakes.model_turns import call, say

TOOLS: dict[str, Json] = {"write_file": {}, "read_file": {}}
ODD_VALUES: tuple[object, ...] = (
    None,
    True,
    0,
    -1,
    -3.5,
    10**400,
    1e308,
    "",
    "\ud83d",
    "ü" * 50,
    [],
    {},
    [[]],
    {"": None},
    "}",
    "[DONE]",
    -9999.0,
    0.0,
)
ODD_BYTES = (b"\n", b"\r", b"\r\n\r\n", b": x\n", b"data:", b"event: error\n", b"{", b"}")
MEDIA_TYPES = ("text/event-stream", "application/x-ndjson", "application/json", "text/plain", "")
CODINGS = (*[""] * 30, "gzip", "identity", "br", "deflate")


@dataclass
class FuzzResult:
    streams: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """Replies by what was said of them: ok, an error, or a problem."""
    lost_bytes: int = 0
    passed: int = 0
    """Pieces that the filter let pass before they were parsed."""
    wrongly_passed: int = 0
    """Of these, pieces that the filter changed when they were parsed."""
    falling_counters: int = 0


def seed_replies() -> list[tuple[Api, bytes]]:
    """Well-formed replies of each API, streamed and not."""
    turn = call("write_file", path="a", text="hällo").with_(prompt_tokens=12)
    replies: list[tuple[Api, bytes]] = []
    for openai in (OpenAIShape(turn, True, True, True), OpenAIShape(say("one two three"), True, False, False)):
        stream = "".join([*openai.head(), *(openai.token(token) for token in turn.tokens), *openai.tail()])
        replies += [(Api.OPENAI_CHAT, stream.encode()), (Api.OPENAI_CHAT, json.dumps(openai.whole()).encode())]
    ollama = OllamaShape(turn, True, True)
    lines = "".join([*(ollama.token(token) for token in turn.tokens), *ollama.tail()])
    replies += [(Api.OLLAMA_CHAT, lines.encode()), (Api.OLLAMA_TEXT, json.dumps(ollama.whole()).encode())]
    message: list[Json] = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 9, "cache_read_input_tokens": 3}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "t", "name": "read_file"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"path":'}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '"a"}'}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ]
    response: list[Json] = [
        {"type": "response.output_item.added", "item": {"id": "f", "type": "function_call"}},
        {"type": "response.function_call_arguments.delta", "item_id": "f", "delta": '{"path":"a"}'},
        {"type": "response.output_text.delta", "delta": "It", "logprobs": [{"token": "It", "logprob": -0.5}]},
        {"type": "response.completed", "response": {"status": "completed", "usage": {"input_tokens": 3, "output_tokens": 2}}},
    ]
    for api, values in ((Api.MESSAGES, message), (Api.RESPONSES, response)):
        replies.append((api, b"".join(f"event: {v['type']}\ndata: {json.dumps(v)}\n\n".encode() for v in values)))
    replies.append((Api.EMBEDDING, b'{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":5}}'))
    return replies


def mutate(chance: random.Random, data: bytes, others: list[tuple[Api, bytes]]) -> bytes:
    """Returns ``data`` with one to four faults."""
    faults: list[Callable[[], bytes]] = [
        lambda: data[: chance.randrange(len(data) + 1)],
        lambda: _cut_out(chance, data),
        lambda: _insert(chance, data, bytes(chance.randrange(256) for _ in range(chance.randrange(1, 9)))),
        lambda: _insert(
            chance, data, chance.choice((b"\n", b"\r", b"\r\n\r\n", b": x\n", b"data:", b"event: error\n", b"{", b"}"))
        ),
        lambda: _insert(chance, data, chance.choice(others)[1][: chance.randrange(200)]),
        lambda: data.replace(b"\n", chance.choice((b"\r", b"\r\n", b"\n\n", b"")), chance.choice((1, 3, -1))),
        lambda: data.replace(b": ", b":", chance.choice((1, -1))),
        lambda: b"\xef\xbb\xbf" + data,
        lambda: _replace_value(chance, data),
        lambda: _swap_lines(chance, data),
        lambda: data.replace(b'"index": 0', b'"index": 1', 1),
    ]
    for _ in range(chance.choice((1, 1, 1, 2, 3, 4))):
        data = chance.choice(faults)()
    return data


def play(streams: int, seed: int = 1) -> FuzzResult:
    """Reads ``streams`` mutated replies. Whatever raises is a failure of the parser."""
    chance = random.Random(seed)
    seeds = seed_replies()
    metrics = ProxyMetrics(max_tasks=50)
    before: dict[tuple[str, ...], float] = {}
    result = FuzzResult()
    for number in range(streams):
        api, data = chance.choice(seeds)
        if chance.random() < 0.98:
            data = mutate(chance, data, seeds)
        stream, coding = chance.random() < 0.8, chance.choice(CODINGS)
        if coding == "gzip" and chance.random() < 0.8:
            data = gzip.compress(data)
        decoder = ReplyDecoder(api, chance.choice(MEDIA_TYPES), coding, stream=stream)
        pieces = list(_pieces(chance, data))
        splitter = EventSplitter(chance.choice((200, 1 << 20)))
        events = [event.raw for piece in pieces for event in splitter.feed(piece)]
        result.lost_bytes += b"".join([*events, *(event.raw for event in splitter.finish())]) != data
        if chance.random() < 0.5 and not coding and decoder.streamed:
            extended = ExtendedRequest(b"", usage=chance.random() < 0.5, logprobs=chance.random() < 0.5)
            response_filter = ResponseFilter(api, extended, decoder)
            shown = []
            for at, piece in enumerate(pieces):
                passes = response_filter.passes_unchanged(piece)
                shown.append(response_filter.feed(piece, float(at)))
                result.wrongly_passed += passes and shown[-1] != piece
                result.passed += passes
            shown.append(response_filter.finish(1e3))
            result.lost_bytes += not extended.is_extended and b"".join(shown) != data
        else:
            for at, piece in enumerate(pieces):
                decoder.feed(piece, float(at))
        reply = decoder.finish()
        result.outcomes["error" if reply.error else reply.problem or ("ok" if decoder.ended_well else "incomplete")] += 1
        key = metrics.key("r", str(number % 60), "m")
        metrics.begin(key, 0.0)
        metrics.count_reply(key, 0.0, 1.0, reply, judge_tool_calls(reply, TOOLS, lambda *_: UNCHECKED))
        metrics.end(key, "ok" if decoder.ended_well else "broken", 0.0, 1.0)
        if number % 200 == 0:
            before = _compare(metrics, before, result)
    _compare(metrics, before, result)
    result.streams = streams
    return result


def _compare(metrics: ProxyMetrics, before: dict[tuple[str, ...], float], result: FuzzResult) -> dict[tuple[str, ...], float]:
    """Counts counters that have fallen since; a task that was dropped and came back begins anew, as its series does."""
    sheet = Sheet()
    metrics.collect(sheet)
    now = {
        (sample.name, *sample.labels.values()): sample.value
        for family in sheet.families()
        if family.type == "counter"
        for sample in family.samples
        if "task_id" not in sample.labels
    }
    refused = sum(value for key, value in now.items() if "refused_decreases" in key[0])
    result.falling_counters += sum(now.get(key, 0.0) < value for key, value in before.items()) + int(refused)
    return now


def _pieces(chance: random.Random, data: bytes) -> Iterator[bytes]:
    cuts = [chance.randrange(len(data) + 1) for _ in range(chance.choice((0, 1, 3, 30)))]
    if chance.random() < 0.5:
        # As servers write: whole events, and mostly an event at a time.
        cuts = [match.end() for match in re.finditer(rb"\n+", data) if chance.random() < 0.9]
    cuts.sort()
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        yield data[begin:end]


def _cut_out(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + data[at + chance.randrange(40) :]


def _insert(chance: random.Random, data: bytes, more: bytes) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + more + data[at:]


def _swap_lines(chance: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


def _replace_value(chance: random.Random, data: bytes) -> bytes:
    """Puts an odd value in the place of one value somewhere in one JSON line."""
    lines = data.split(b"\n")
    at = chance.randrange(len(lines))
    prefix, brace, rest = lines[at].partition(b"{")
    try:
        value = json.loads(brace + rest)
    except ValueError:
        return data
    part = value
    while isinstance(part, dict | list) and part:
        key = chance.choice(list(part)) if isinstance(part, dict) else chance.randrange(len(part))
        if not isinstance(part[key], dict | list) or chance.random() < 0.3:
            part[key] = chance.choice(ODD_VALUES)
            break
        part = part[key]
    lines[at] = prefix + json.dumps(value).encode()
    return b"\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.unit.llm.fuzz", description="Play mutated replies.")
    parser.add_argument("--streams", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    result = play(arguments.streams, arguments.seed)
    print(f"{result.streams} mutated streams, seed {arguments.seed}: 0 exceptions, {result.falling_counters} falling counters,")  # noqa: T201
    print(f"{result.lost_bytes} streams whose bytes changed; replies: {dict(result.outcomes.most_common())}")  # noqa: T201


if __name__ == "__main__":
    main()
