"""An export says how many of the planned tasks left no trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulebench.push.journal import Journal
from joulebench.results.export import Options, export


def write_journal(runs: Path, worker: str, planned: int | None, finished: int, begun: int = 0) -> None:
    journal = Journal(runs / "r" / f"journal-{worker}.jsonl", "r", worker)
    journal.write("RUN_START", 1000.0, planned_tasks=planned)
    for number in range(finished + begun):
        journal.write("TASK_START", 1001.0 + number, f"t{number}", task_name="t")
        if number < finished:
            journal.write("TASK_END", 1001.5 + number, f"t{number}", status="success", success=True)
    journal.close()


@pytest.mark.parametrize(
    ("planned", "finished", "begun", "note"),
    [
        (60, 24, 0, ["36 of 60 planned tasks are missing: 24 are known"]),
        (5, 3, 1, ["1 of 5 planned tasks are missing: 4 are known; 1 of those never ended"]),
        (3, 3, 0, []),
        (None, 3, 0, []),
    ],
)
def test_planned_tasks_that_left_nothing_are_counted(
    tmp_path: Path, planned: int | None, finished: int, begun: int, note: list[str]
) -> None:
    write_journal(tmp_path, "w", planned, finished, begun)
    assert [one for one in export(Options("r", tmp_path), None).notes if "planned" in one] == note


def test_the_plans_of_all_workers_count_together(tmp_path: Path) -> None:
    write_journal(tmp_path, "w1", 3, 2)
    write_journal(tmp_path, "w2", 3, 3)
    assert "1 of 6 planned tasks are missing: 5 are known" in export(Options("r", tmp_path), None).notes
