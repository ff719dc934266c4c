"""Whatever a benchmark hands over, its call returns, its journal stays readable line by line, and its pushes go on."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
from collections.abc import Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from joulebench import Run, metrics
from joulebench.confidence.measures import CallConfidence
from joulebench.push.journal import MAX_EVENT_BYTES, MAX_UNWRITTEN_BYTES, Journal, encode_event
from tests.unit.push.conftest import events, eventually, scrape


class FailsToPrint:
    def __repr__(self) -> str:
        raise RuntimeError("no text")

    __str__ = __repr__


class FailsToIterate(Mapping[str, object]):
    def __getitem__(self, key: str) -> object:
        raise OSError("gone")

    def __iter__(self) -> Iterator[str]:
        raise OSError("gone")

    def __len__(self) -> int:
        return 3


class PretendsToBeANumber:
    def __float__(self) -> float:
        raise ValueError("no number")


def deep(levels: int, make: Any) -> object:
    value: object = 1
    for _ in range(levels):
        value = make(value)
    return value


def loop() -> object:
    value: list[object] = []
    value.append({"again": value})
    return value


ODD: dict[str, object] = {
    "fails to print": FailsToPrint(),
    "holds what fails to print": {"a": [FailsToPrint()], FailsToPrint(): 1},
    "fails to iterate": FailsToIterate(),
    "deep list": deep(100_000, lambda inner: [inner]),
    "deep mapping": deep(5_000, lambda inner: {"k": inner}),
    "loop": loop(),
    "10^400": 10**400,
    "10^5000": 10**5000,
    "-10^400": -(10**400),
    "not finite": [math.nan, math.inf, -math.inf, np.float32("nan"), Decimal("NaN"), Decimal("Infinity"), Decimal("sNaN")],
    "half an emoji": "\ud83d and \ude00",
    "a key of half an emoji": {"\ud83d": "\ud83d"},
    "an emoji as two halves": "\ud83d\ude00",
    "CESU bytes": b"\xed\xa0\xbd\xed\xb8\x80",
    "no text bytes": bytes(range(256)),
    "control characters": "\x00\x1b[31m\u2028\x85\r\n",
    "numpy": {"i": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True), "a": np.arange(3)},
    "pandas": [pd.NaT, pd.NA, pd.Timestamp("2026-01-01")],
    "number types": [Decimal("1.5"), Fraction(1, 4), True],
    "keys of all kinds": {None: 1, 1: 2, 1.5: 3, (1, 2): 4, b"x": 5, math.nan: 6},
    "set and class": [{1}, object, ValueError("x"), print],
    "large text": "x" * (2 * MAX_EVENT_BYTES),
    "large list": list(range(3_000_000)),
    "many large texts": ["y" * 100_000] * 100,
    "complex": 1j,
    "pretends": PretendsToBeANumber(),
}


@pytest.mark.parametrize("name", ODD)
def test_any_event_is_one_line_of_valid_json(name: str) -> None:
    line = encode_event({"event_type": "A", "timestamp": 1.0, "args": ODD[name], "result": name})
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line) <= MAX_EVENT_BYTES + 1
    event = json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert (event["event_type"], event["timestamp"], event["result"]) == ("A", 1.0, name)
    json.dumps(event, ensure_ascii=False).encode("utf-8")  # no half of an emoji is left
    line.decode("ascii")


def test_what_can_be_kept_is_kept() -> None:
    def kept(value: object) -> object:
        return json.loads(encode_event({"args": value}))["args"]

    assert kept(ODD["numpy"]) == {"i": 3, "f": 0.5, "b": True, "a": "[0 1 2]"}
    assert kept(ODD["number types"]) == [1.5, 0.25, True]
    assert kept(ODD["an emoji as two halves"]) == "\U0001f600"
    assert kept(ODD["half an emoji"]) == "\ufffd and \ufffd"
    assert kept(10**400) == 10**400
    assert kept(10**5000) == "an integer of 16610 bits"
    assert kept({"a": [1, {"b": "c"}], "d": None}) == {"a": [1, {"b": "c"}], "d": None}
    assert kept(FailsToPrint()) == "<FailsToPrint without a text: RuntimeError>"


@pytest.mark.parametrize("name", ODD)
def test_odd_names_reach_the_gateway_as_bounded_text(name: str, tmp_path: Path) -> None:
    odd: Any = ODD[name]
    with Run(model=odd, suite=odd, runs_dir=tmp_path, run_id="r", gateway_url="none", exporter_url="none") as run:
        with run.task(odd, model=odd) as task:
            with task.call(odd) as call:
                call.fail(odd)
            with task.tool(odd, odd, CallConfidence("ok", "t", 0.5, {})) as tool:
                tool.result(odd)
                tool.outcome("tool_error", odd)
            task.key_step(odd, odd)
            task.fail(odd)
        run.declare_tools([odd] if isinstance(odd, str) else ["t"])
    kinds = [event["event_type"] for event in events(run.directory)]
    assert kinds.count("TASK_END") == kinds.count("PUSH_STATE") == 1
    (start,) = events(run.directory, "TASK_START")
    for key in ("task_id", "task_name", "model_name"):
        assert len(start[key]) <= 200
        assert start[key].isprintable()


def test_half_an_emoji_in_a_model_does_not_stop_the_pushes_of_other_tasks(tmp_path: Path, gateway: Any) -> None:
    with Run(
        model="m", runs_dir=tmp_path, run_id="r", gateway_url=gateway.url, prometheus_url="none", exporter_url="none"
    ) as run:
        with run.task("bad") as task, task.call("model \ud83d") as call:
            call.finish(1, 1)
        for number in range(5):
            with run.task(f"good {number}"):
                pass
        eventually(lambda: len({labels.get("task_id") for _, labels, _ in scrape(gateway.url)} - {None}) == 6)
    (state,) = events(run.directory, "PUSH_STATE")
    assert (state["groups_unpushed"], state["loop_errors"]) == (0, 0)


def test_thousands_of_models_and_tools_are_a_bounded_number_of_series(tmp_path: Path, gateway: Any) -> None:
    with (
        Run(model="m", runs_dir=tmp_path, run_id="r", gateway_url=gateway.url, prometheus_url="none", exporter_url="none") as run,
        run.task("t") as task,
    ):
        for number in range(500):
            with task.call("x" * 10_000 + str(number)) as call:
                call.finish(1, 1)
            with task.tool(f"tool {number}", {}, CallConfidence("ok", "t", 0.5, {})):
                pass
    models = {labels["model"] for name, labels, _ in scrape(gateway.url) if name == f"{metrics.CALL_DURATION.name}_count"}
    assert "other" in models
    assert len(models) == 50, "49 beside m that has tasks, and other"
    assert max(map(len, models)) <= 200


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        (np.int32(7), 7),
        (np.float64(7.0), 7),
        (Decimal(7), 7),
        (Fraction(7, 1), 7),
        (7.0, 7),
        (-5, None),
        (np.int64(-1), None),
        ("7", None),
        (7.5, None),
        (True, None),
        (math.nan, None),
        (math.inf, None),
        (10**400, None),
        ([7], None),
        (FailsToPrint(), None),
        (PretendsToBeANumber(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_number_is_a_number_and_nothing_else_is(
    tmp_path: Path, given: Any, recorded: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING),
        Run(model="m", runs_dir=tmp_path, run_id="r", gateway_url="none", exporter_url="none") as run,
        run.task("t") as task,
        task.call() as call,
    ):
        call.first_token()
        call.finish(given, given, cached_tokens=given, decode_seconds=given, prefill_seconds=given)
    (end,) = events(run.directory, "LLM_QUERY_END")
    assert (end["prompt_tokens"], end["completion_tokens"], end["cached_tokens"]) == (recorded, recorded, recorded)
    assert all(value is None or value >= 0 for key, value in end.items() if key.endswith(("_seconds", "_tokens")))


def test_a_refused_number_is_explained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from joulebench.push.call import checked_count

    with caplog.at_level(logging.WARNING):
        assert [checked_count(-5, "explained_tokens") for _ in range(3)] == [None, None, None]
    assert [record.getMessage() for record in caplog.records] == [
        "explained_tokens=-5 is not recorded: it is not a whole number from 0; further such values are not logged"
    ]


def test_a_repeated_name_costs_no_more_each_time(tmp_path: Path) -> None:
    """20,000 repetitions try 20,000 ids; if each tried all the earlier ones, this would be 200,000,000 and not end in time."""
    with Run(model="m", runs_dir=tmp_path, run_id="r", worker="w", gateway_url="none", exporter_url="none") as run:
        ids = [run.task("same").task_id for _ in range(20_000)]
    assert (len(set(ids)), ids[-1]) == (20_000, "same#20000")


def test_tasks_of_many_threads_and_coroutines_are_all_recorded(tmp_path: Path) -> None:
    async def work(run: Run, name: str) -> None:
        with run.task(name) as task:
            with task.call() as call:
                await asyncio.sleep(0.001)
                call.first_token()
                await asyncio.sleep(0.001)
                call.finish(1, 2)
            task.succeed()

    async def many(run: Run) -> None:
        await asyncio.gather(*(work(run, f"c{number}") for number in range(200)))

    def thread(run: Run) -> None:
        asyncio.run(many(run))

    with Run(model="m", runs_dir=tmp_path, run_id="r", gateway_url="none", exporter_url="none") as run:
        threads = [threading.Thread(target=thread, args=(run,)) for _ in range(3)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    ends = events(run.directory, "TASK_END")
    assert len({end["task_id"] for end in ends}) == len(ends) == 600
    assert len(events(run.directory, "LLM_QUERY_END")) == 600


def test_events_that_wait_for_the_disk_are_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "j.jsonl"
    path.symlink_to("/dev/full")
    journal = Journal(path, "r", "w")
    with caplog.at_level(logging.ERROR):
        for _ in range(2 * MAX_UNWRITTEN_BYTES // 1_000_000):
            journal.write("A", 1.0, text="x" * 1_000_000)
    assert journal.lost == 2 * MAX_UNWRITTEN_BYTES // 1_000_000
    assert journal.problem == "No space left on device"
    messages = [record.getMessage() for record in caplog.records if "journal" in record.getMessage()]
    assert ["could not be written" in messages[0], "further events are lost" in messages[1]] == [True, True]
    journal.close()


def test_a_journal_is_its_owners_alone(tmp_path: Path) -> None:
    with Run(model="m", runs_dir=tmp_path, run_id="r", worker="w", gateway_url="none", exporter_url="none"):
        pass
    assert (tmp_path / "r/journal-w.jsonl").stat().st_mode & 0o777 == 0o600
