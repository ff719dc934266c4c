"""The runs of a demo that are compared take turns: no run is made while the machine is another than for the others."""

from __future__ import annotations

from collections import Counter

import pytest

from joulebench import cli
from joulebench.bench import suites
from joulebench.cli import demo


def test_every_run_does_every_task_once_and_none_is_always_last() -> None:
    runs = ["first", "again", "against"]
    order = list(demo._order(runs, "*"))
    tasks = [task.id for task in suites.load("files").tasks]
    done = {run: [task for name, flags in order if name == run for task in flags[1].split(",")] for run in runs}
    assert done == dict.fromkeys(runs, tasks)
    turns = [tuple(name for name, _ in order[at : at + len(runs)]) for at in range(0, len(order), len(runs))]
    assert set(map(frozenset, turns)) == {frozenset(runs)}
    assert Counter(turn[0] for turn in turns) == {"first": 3, "against": 3}
    assert [flags[2:] for _, flags in order[:4]] == [[], [], [], ["--idle-seconds", "0"]]


def test_a_demo_of_one_run_starts_once_with_the_glob_that_was_given() -> None:
    assert list(demo._order(["only"], "csv-*")) == [("only", ["--tasks", "csv-*"])]


def test_a_file_that_is_no_model_is_told_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--against", __file__]) == 2
    assert "is no GGUF file" in capsys.readouterr().err
