"""Two sources of one task, agreeing, differing, torn and missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from joulebench.results.journal import Journal, exporter_energy, known_runs, load_journals, task_values
from joulebench.results.merge import merge_sources
from joulebench.results.pushed import PushedTask
from joulebench.results.task import GpuJoules, Task, TaskKey, ValueDisagreement
from joulebench.schema.result import Event
from tests.unit.results.scenario import RUN, TASKS, Planned, events, write_journals

PLAIN = TASKS[0]
KEY = TaskKey("plain", "w1")


def held(*lines: Event, run: Event | None = None) -> Journal:
    tasks = {KEY: list(lines)} if lines else {}
    values = {key: task_values(some, {}) for key, some in tasks.items()}
    energy = {key: exporter_energy(some) for key, some in tasks.items()}
    return Journal(tasks, [], 0, 1, values, energy, {str(run["worker"]): run} if run else {})


def pushed(task: Planned = PLAIN) -> PushedTask:
    return PushedTask(task_values(events(task), {}))


def only(held_: Journal, pushed_: PushedTask | None) -> Task:
    (task,) = merge_sources(held_, {KEY: pushed_} if pushed_ else {})
    return task


def test_sources_that_agree() -> None:
    task = only(held(*events(PLAIN)), pushed())
    assert set(task.sources.values()) == {"both"}
    assert task.disagreements == ()
    assert task.window == (task.values.start, task.values.end)


def test_the_configuration_of_a_run_is_that_of_its_tasks() -> None:
    start = {"event_type": "RUN_START", "timestamp": 0.0, "worker": KEY.worker, "configuration": {"tool_mode": "native"}}
    for run, wanted in (
        (start, {"tool_mode": "native"}),
        ({**start, "configuration": "none"}, {}),
        ({**start, "worker": "w2"}, {}),
    ):
        task = only(held(*events(PLAIN), run=run), None)
        assert task.run_configuration == wanted


def test_where_they_differ_the_journal_counts_and_both_are_told() -> None:
    other = pushed()
    late = replace(other, values=replace(other.values, completion_tokens=75, confidence_min=0.92))
    task = only(held(*events(PLAIN)), late)
    assert task.values.completion_tokens == 150
    assert task.disagreements == (
        ValueDisagreement("completion_tokens", 150, 75),
        ValueDisagreement("confidence_min", 0.93, 0.92),
    )
    assert task.sources["completion_tokens"] == "journal"


def test_a_journal_that_lost_its_end_yields() -> None:
    torn = [event for event in events(PLAIN) if event["event_type"] != "TASK_END"][:5]
    task = only(held(*torn), pushed())
    assert (task.status, task.values.llm_calls, task.values.completion_tokens) == ("success", 2, 150)
    assert task.sources["end"] == "prometheus"


def test_a_killed_benchmark_leaves_an_unfinished_task() -> None:
    task = only(held(*events(TASKS[-1])), None)
    assert (task.status, task.window, task.values.success) == ("unfinished", None, None)


def test_times_that_a_store_rounded_are_the_same_times() -> None:
    other = pushed()
    assert other.values.start is not None
    rounded = replace(other, values=replace(other.values, start=other.values.start + 0.004))
    task = only(held(*events(PLAIN)), rounded)
    assert task.disagreements == ()
    assert task.values.start == other.values.start


def test_token_counts_that_nobody_reported_are_unknown() -> None:
    silent = [{**event, "completion_tokens": None, "prompt_tokens": None} for event in events(PLAIN)]
    values = task_values(silent, {})
    assert (values.prompt_tokens, values.completion_tokens, values.llm_calls) == (None, None, 2)


def test_an_end_before_the_start_is_no_window() -> None:
    backwards = [{**e, "timestamp": e["timestamp"] - 60} if e["event_type"] == "TASK_END" else e for e in events(PLAIN)]
    assert only(held(*backwards), None).window is None


def test_the_last_energy_answer_counts_and_pushed_energy_stands_in() -> None:
    gpu = {"gpu": "0", "uuid": "u", "joules": 5.0, "low": 4.0, "high": None, "quality": "ok", "reasons": ["x"], "samples": 3}
    answers: list[Event] = [
        {"event_type": "TASK_ENERGY", "timestamp": 1.0, "source": "nvml", "gpus": []},
        {"event_type": "TASK_ENERGY", "timestamp": 2.0, "source": "simulated", "gpus": [gpu, "nonsense"]},
    ]
    task = only(held(*events(PLAIN), *answers), None)
    assert task.exporter_energy == (GpuJoules("0", "u", 5.0, 4.0, None, None, 3, "ok", ("x",)),)
    assert task.exporter_source == "simulated"
    assert all(event["event_type"] != "TASK_ENERGY" for event in task.events)
    from_push = replace(pushed(), energy=(GpuJoules("0", "u", 6.0, None, None),))
    assert only(held(*events(PLAIN)), from_push).exporter_energy == from_push.energy


def test_reading_damaged_journals(tmp_path: Path) -> None:
    directory = write_journals(tmp_path, [PLAIN])
    bad = ["nonsense", "[]", "{}", '{"event_type": 5, "timestamp": 1}', '{"event_type": "X", "timestamp": "1"}']
    bad += ['{"event_type": "X", "timestamp": NaN}', '{"event_type": "X", "timestamp": true}', "\udcff"]
    good = {"event_type": "TASK_START", "timestamp": 5, "task_id": "t"}
    text = "\n".join([*bad, "", json.dumps(good)])
    (directory / "journal-z.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    read = load_journals(directory)
    assert read.damaged == len(bad) + 1
    assert read.files == 2
    assert set(read.tasks) == {KEY, TaskKey("t", "")}
    assert known_runs(tmp_path) == [RUN]
    assert load_journals(tmp_path / "none") == Journal({}, [], 0, 0)
