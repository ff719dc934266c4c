"""A tool schema that takes years to evaluate stops nobody: its calls are unchecked, all others are judged and counted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import requests

from joulebench.parsing import Json
from joulebench.proxy.schema_check import BUDGET_SECONDS, TIME_LIMIT, SchemaChecker
from tests.hostile.attacked_proxy import CHAT, CLOCK, STOP_SECONDS, attack, proxy_of_hostile_upstream
from tests.hostile.hostile_upstream import ARGUMENTS
from tests.unit.proxy.seen import wait_for


def regex_bomb() -> Json:
    return {"type": "object", "properties": {"x": {"type": "string", "pattern": "^(a+)+$"}}}


def reference_bomb(depth: int = 25) -> Json:
    """2 to the power of ``depth`` evaluations."""
    definitions: Json = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(depth)}
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{depth}": {"type": "object"}}}


def nested(depth: int) -> Json:
    schema: Json = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"x": schema}, "anyOf": [schema, {}]}
    return schema


BOMBS: dict[str, Json] = {
    "regular expression": regex_bomb(),
    "nested references": reference_bomb(),
    "endless reference": {"$ref": "#"},
    "unevaluated": {"unevaluatedProperties": False, **nested(12)},
    "pattern properties": {"patternProperties": {"^(x+)+$": {}}, "additionalProperties": False},
    "many values": {"type": "object", "properties": {"x": {"enum": [[n] for n in range(200_000)]}}},
}
PLAIN: Json = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}


def test_each_bomb_ends_within_its_limit() -> None:
    checker = SchemaChecker()
    try:
        for name, bomb in BOMBS.items():
            began = CLOCK.monotonic()
            outcome = checker.check(bomb, ARGUMENTS, CLOCK.monotonic)
            took = CLOCK.monotonic() - began
            assert outcome in ("unchecked", "ok", "schema_invalid"), name
            assert took < 12.0, f"{name}: {took} s"
        for name in ("regular expression", "nested references"):
            began = CLOCK.monotonic()
            assert checker.check(BOMBS[name], ARGUMENTS, CLOCK.monotonic) == "unchecked", name
            # Remembered: it costs nothing any more.
            assert CLOCK.monotonic() - began < TIME_LIMIT
    finally:
        checker.close()


def test_schemas_that_need_the_worker_are_judged_there() -> None:
    referring: Json = {"$defs": {"s": {"type": "string", "pattern": "^[a-z]+$"}}, "properties": {"x": {"$ref": "#/$defs/s"}}}
    checker = SchemaChecker()
    try:
        assert checker.check(referring, {"x": "abc"}, CLOCK.monotonic) == "ok"
        assert checker.check(referring, {"x": "A1"}, CLOCK.monotonic) == "schema_invalid"
        assert checker.check({"$ref": "http://127.0.0.1:9/x.json"}, {}, CLOCK.monotonic) == "ok"
    finally:
        checker.close()


def test_a_client_with_bombs_uses_a_bounded_part_of_the_machine() -> None:
    """Each bomb is another schema, so that none is remembered."""
    checker = SchemaChecker()
    began = CLOCK.monotonic()
    try:
        checker.check({"$ref": "#/$defs/a", "$defs": {"a": {}}}, {}, CLOCK.monotonic)
        started = CLOCK.monotonic()
        outcomes = [checker.check({**regex_bomb(), "title": str(n)}, ARGUMENTS, CLOCK.monotonic) for n in range(200)]
        assert set(outcomes) == {"unchecked"}
        # The budget, a start of the worker for each of the checks that used it up, and no more.
        assert CLOCK.monotonic() - started < BUDGET_SECONDS + 6 * (started - began) + 3.0
    finally:
        checker.close()


def test_a_bystander_is_served_and_counted_and_the_proxy_ends(tmp_path: Path) -> None:
    with proxy_of_hostile_upstream(tmp_path / "log") as proxy:
        names = iter(range(100_000))

        def bomb() -> None:
            for schema in BOMBS.values():
                tool = {"type": "function", "function": {"name": "f", "parameters": {**schema, "title": str(next(names))}}}
                got = requests.post(proxy.url + CHAT, json={"model": "tool call", "tools": [tool]}, timeout=10)
                assert got.status_code == 200

        attack(proxy, "schema bombs", bomb)
        tool = {"type": "function", "function": {"name": "f", "parameters": PLAIN}}
        requests.post(f"{proxy.url}/run/r/task/t{CHAT}", json={"model": "tool call", "tools": [tool]}, timeout=10)
        wait_for(lambda: proxy.value("tool_calls_total", task_id="t", outcome="ok") == 1, 30.0)
        assert proxy.value("tool_calls_total", model="tool call", outcome="unchecked") > 0
        assert proxy.stop() < STOP_SECONDS


def test_a_worker_whose_proxy_was_killed_ends_by_itself() -> None:
    bomb = [{"type": "string", "pattern": "^(a+)+$"}, "a" * 64 + "!"]
    argv = [sys.executable, "-m", "joulebench.proxy.schema_check"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        worker.stdin.write(json.dumps(bomb).encode() + b"\n")
        worker.stdin.flush()
        assert worker.wait(timeout=30) == -signal.SIGALRM
