"""The cache over a conversation and the suspicion of leaks, on tokens and VRAM that the test sets."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from joulebench import cli
from joulebench.analysis.bottlenecks.kv_cache import KvCache, kv_cache_of_tasks
from tests.fakes.scripted_run import Scripted, write
from tests.unit.analysis.limited import Gpu, Turn, read, task

MIB = 2**20


def found(directory: Path, *tasks: Scripted, token_bytes: float | None = None) -> KvCache:
    (one,) = kv_cache_of_tasks(read(directory, *tasks), None if token_bytes is None else {"model-a": token_bytes})
    return one


def holding(name: str, tokens: int, vram: float) -> Scripted:
    return task(name, [Turn(prompt=tokens - 50, reply=50)], gpus=[Gpu(vram=vram)])


def kinds(of: KvCache) -> list[str]:
    return [finding.kind for finding in of.findings]


def test_turns_hold_what_prompt_and_reply_add(tmp_path: Path) -> None:
    long = task("long", [Turn(prompt=100, reply=50), Turn(prompt=200, reply=100), Turn(prompt=400, reply=100)])
    short = task("short", [Turn(prompt=300, reply=50)])
    of = found(tmp_path, long, short, token_bytes=1024.0)
    assert of.method == "shape"
    assert [(turn.turn, turn.tasks, turn.tokens, turn.growth, turn.bytes) for turn in of.turns] == [
        (1, 2, 250.0, 250.0, 256_000.0),
        (2, 1, 300.0, 150.0, 307_200.0),
        (3, 1, 500.0, 200.0, 512_000.0),
    ]


def test_vram_that_grows_with_tokens_gives_the_size_of_one(tmp_path: Path) -> None:
    """A tenth of a MiB for a token, with some noise of other memory."""
    chance = random.Random(1)
    tokens = [1000, 4000, 2000, 5000, 3000, 6000, 1500, 4500, 2500, 5500]
    of = found(tmp_path, *(holding(f"t{i}", n, 4000 + 0.1 * n + chance.gauss(0, 5)) for i, n in enumerate(tokens)))
    assert of.method == "vram"
    assert of.slope is not None
    assert of.slope.low < 0.1 * MIB < of.slope.high
    assert of.slope.high - of.slope.low < 0.02 * MIB
    assert of.turns[0].bytes == pytest.approx(of.turns[0].tokens * of.slope.value)
    assert of.findings == ()


def test_a_cache_set_aside_at_the_start_has_no_slope_and_no_bytes(tmp_path: Path) -> None:
    chance = random.Random(2)
    of = found(tmp_path, *(holding(f"t{i}", 1000 + 400 * (i % 5), 9000 + chance.gauss(0, 3)) for i in range(12)))
    assert of.method == "none"
    assert of.slope is not None
    assert of.slope.low < 0 < of.slope.high
    assert {turn.bytes for turn in of.turns} == {None}


def test_memory_that_rises_from_task_to_task_without_tokens_is_suspect(tmp_path: Path) -> None:
    leaking = [holding(f"t{i}", 1000 + 100 * (i * 7 % 5), 8000 + 40 * i) for i in range(10)]
    of = found(tmp_path / "leak", *leaking)
    assert kinds(of) == ["VRAM grows from task to task, tokens do not"]
    assert "360 MiB more after 10 tasks" in of.findings[0].evidence
    growing = [holding(f"t{i}", 1000 + 500 * i, 8000 + 40 * i) for i in range(10)]
    assert found(tmp_path / "tokens rise too", *growing).findings == ()
    little = [holding(f"t{i}", 1000, 8000 + 2 * i) for i in range(10)]
    assert found(tmp_path / "little", *little).findings == ()


def test_memory_that_rises_within_a_task_without_tokens_is_suspect(tmp_path: Path) -> None:
    fifths = (8000.0, 8050.0, 8100.0, 8150.0, 8200.0)
    same, more = [Turn(prompt=500), Turn(prompt=500)], [Turn(prompt=500), Turn(prompt=900)]
    of = found(tmp_path / "same", task("a", same, vram_fifths=fifths), task("b", same))
    assert kinds(of) == ["VRAM grows within a task, its context does not"]
    assert of.findings[0].evidence.startswith("in 1 of 2 tasks, at most 200 MiB")
    assert found(tmp_path / "more", task("a", more, vram_fifths=fifths)).findings == ()
    assert found(tmp_path / "not always", task("a", same, vram_fifths=(*fifths[:3], 8000.0, 8200.0))).findings == ()


def test_few_tasks_give_no_slope(tmp_path: Path) -> None:
    of = found(tmp_path, *(holding(f"t{i}", 1000 * (i + 1), 8000 + 100 * i) for i in range(5)))
    assert (of.slope, of.method) == (None, "none")


def test_the_command_shows_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "run", [task("a", [Turn(prompt=100, reply=50), Turn(prompt=200, reply=100)])])
    assert cli.main(["analyze", "kv-cache", str(tmp_path / "run"), "--kv-token", f"model-a={MIB}"]) == 0
    shown = capsys.readouterr().out
    assert "turn 2: 300 tokens in context (+150), 300.0 MiB, mean of 1 tasks" in shown
    assert cli.main(["analyze", "kv-cache", str(tmp_path / "run"), "--format", "json"]) == 0


def test_a_server_that_tells_how_full_its_cache_is_comes_first(tmp_path: Path) -> None:
    turns = [Turn(prompt=100, cache=0.1, running=1), Turn(prompt=200, cache=0.2, running=1), Turn(prompt=400, cache=None)]
    busy = [Turn(prompt=100, cache=0.3, running=1), Turn(prompt=200, cache=0.9, running=3)]
    of = found(tmp_path, task("a", turns), task("b", busy))
    assert of.method == "server"
    first, second, third = of.turns
    assert (first.seen, first.ratio_low, first.ratio_high) == (2, 0.1, 0.3)
    assert first.ratio == pytest.approx(0.2)
    assert (second.seen, second.ratio) == (1, 0.2), "b shared the cache with others"
    assert second.ratio_growth == pytest.approx(0.1)
    assert (third.seen, third.ratio, third.ratio_growth) == (0, None, None)


def test_the_size_of_a_token_is_taken_from_what_the_server_holds(tmp_path: Path) -> None:
    told = {"context_tokens": 8192.0, "kv_cache_bytes": 8192.0 * 1000}
    of = found(tmp_path, task("a", [Turn(prompt=450, reply=50)], server=told))
    assert (of.method, of.token_bytes, of.turns[0].bytes) == ("shape", 1000.0, 500_000.0)
    given = found(tmp_path / "given", task("a", [Turn(prompt=450, reply=50)], server=told), token_bytes=2000.0)
    assert given.turns[0].bytes == 1_000_000.0


def test_bytes_by_vram_have_the_interval_of_its_slope(tmp_path: Path) -> None:
    chance = random.Random(3)
    of = found(
        tmp_path, *(holding(f"t{i}", 1000 * (1 + i % 6), 4000 + 100 * (1 + i % 6) + chance.gauss(0, 5)) for i in range(12))
    )
    (turn,) = of.turns
    assert of.slope is not None
    assert turn.bytes_low is not None
    assert turn.bytes_high is not None
    assert turn.bytes_low < 0.1 * MIB * turn.tokens < turn.bytes_high
