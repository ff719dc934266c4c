"""What throttling cost, on calls whose rates inside and outside the throttled spans the test sets."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from joulebench import cli
from joulebench.analysis.bottlenecks.throttling import Throttling, throttling_of_tasks
from tests.fakes.scripted_run import Scripted, write
from tests.unit.analysis.limited import Turn, read, task


def turn(rate: float, *, hot: float | None = 0.0, celsius: float | None = None, decode: float = 2.0) -> Turn:
    return Turn(reply=round(rate * decode), decode=decode, prefill=0.0, heat=hot, celsius=celsius)


def found(directory: Path, *tasks: Scripted) -> Throttling:
    (one,) = throttling_of_tasks(read(directory, *tasks))
    return one


def script(seed: int, inside: float, outside: float, tasks: int = 12) -> list[Scripted]:
    """Each task has two calls outside and one inside; rates differ by a tenth from task to task."""
    chance = random.Random(seed)
    made = []
    for number in range(tasks):
        factor = chance.gauss(1.0, 0.1)
        calls = [turn(outside * factor), turn(outside * factor), turn(inside * factor * chance.gauss(1.0, 0.05), hot=2.0)]
        made.append(task(f"t{number}", calls))
    return made


def test_slowdown_and_what_was_lost_are_those_of_the_script(tmp_path: Path) -> None:
    exact = [task(f"t{number}", [turn(100), turn(60, hot=2.0)]) for number in range(6)]
    of = found(tmp_path, *exact)
    assert (of.calls_inside, of.calls_outside, of.rate_inside, of.rate_outside) == (6, 6, 60.0, 100.0)
    assert of.slowdown.value == pytest.approx(0.6)
    assert of.seconds_lost.value == pytest.approx(6 * 2.0 * 0.4), "at 100 tokens/s the 720 tokens take 7.2 of the 12 s"
    assert of.tokens_lost.value == pytest.approx(480.0)
    (finding,) = of.findings
    assert "at 60 % of the rate outside" in finding.evidence


def test_the_interval_holds_the_truth(tmp_path: Path) -> None:
    """40 scripts of another seed; a true 95 % interval would miss more than 6 of them once in 70."""
    held = 0
    for seed in range(40):
        interval = found(tmp_path / str(seed), *script(seed, 70, 100)).slowdown.interval
        assert interval is not None
        held += interval.contains(0.7)
    assert held >= 34


def test_no_slowdown_is_no_finding(tmp_path: Path) -> None:
    of = found(tmp_path, *script(3, 100, 100))
    assert of.slowdown.interval is not None
    assert of.slowdown.interval.contains(1.0)
    assert of.findings == ()


def test_calls_between_inside_and_outside_count_on_neither_side(tmp_path: Path) -> None:
    of = found(tmp_path, task("a", [turn(100), turn(100, hot=0.5), turn(100, hot=None), turn(100, hot=1.0)]))
    assert (of.calls_inside, of.calls_outside) == (1, 1)


@pytest.mark.parametrize(
    ("tasks", "why"),
    [
        ([task("a", [turn(100)] * 6)], "no call was throttled for half of its time"),
        ([task("a", [turn(100)] * 6 + [turn(50, hot=2.0)] * 2)], "2 calls inside throttled spans; a rate needs 5"),
        ([task("a", [turn(50, hot=2.0)] * 6)], "0 calls outside throttled spans; a rate needs 5"),
    ],
)
def test_too_few_calls_are_refused(tmp_path: Path, tasks: list[Scripted], why: str) -> None:
    of = found(tmp_path, *tasks)
    assert of.refused == why
    assert of.slowdown.value is None
    assert of.seconds_lost.value is None


def test_few_tasks_give_a_value_without_an_interval(tmp_path: Path) -> None:
    hot = [task(f"h{number}", [turn(50, hot=2.0)] * 5) for number in range(2)]
    cool = [task(f"c{number}", [turn(100)] * 5) for number in range(9)]
    of = found(tmp_path, *hot, *cool)
    assert of.slowdown.value == pytest.approx(0.5)
    assert of.slowdown.interval is None


def test_onset_is_the_first_hot_call_of_a_spell(tmp_path: Path) -> None:
    calls = [
        turn(100),
        turn(50, hot=2.0, celsius=83.0),
        turn(50, hot=2.0, celsius=90.0),
        turn(100),
        turn(50, hot=2.0, celsius=85.0),
    ]
    assert found(tmp_path, task("a", calls)).onset_c == 83.0
    assert found(tmp_path / "cool", task("a", [turn(100)])).onset_c is None


def test_tasks_left_out_of_comparisons_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [*script(1, 60, 100, tasks=7), task("hot", [turn(60, hot=2.0)], quality="suspect", reasons=("throttled",))]
    assert found(tmp_path, *tasks).suspect == ("hot",)
    write(tmp_path / "shown", tasks)
    assert cli.main(["analyze", "throttling", str(tmp_path / "shown")]) == 0
    shown = capsys.readouterr().out
    assert "excluded from comparisons: 1 tasks (hot)" in shown
    assert "rate inside / outside: 0." in shown
    assert cli.main(["analyze", "throttling", str(tmp_path / "shown"), "--format", "json"]) == 0
