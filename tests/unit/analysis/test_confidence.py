"""A planted signal is found, noise is called a null result, and too few failures are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from joulebench import cli
from joulebench.analysis.prediction.confidence import (
    ABOVE,
    NULL,
    REGRESSION,
    ConfidenceReport,
    MeasureResult,
    confidence_reports,
    joules_after,
    savings_by_threshold,
)
from joulebench.analysis.prediction.records import (
    LEVELS,
    SCHEMA_VALID,
    TASK_SUCCESS,
    TOOL_OK,
    WELL_FORMED,
    load_task_records,
    samples,
)
from tests.unit.analysis.runs import Call, planted, task_events, write_journal


def report_of(directory: Path) -> ConfidenceReport:
    (report,) = confidence_reports(load_task_records([directory]))
    return report


def rows_of(report: ConfidenceReport, level: str) -> dict[str, MeasureResult]:
    (found,) = [one for one in report.levels if one.level == level]
    return {row.measure: row for row in found.measures}


def test_a_planted_signal_is_found(tmp_path: Path) -> None:
    report = report_of(planted(tmp_path / "r", 160, signal=0.2))
    for level in (SCHEMA_VALID, TASK_SUCCESS):
        rows = rows_of(report, level)
        # Two normal distributions 0.4 apart with a deviation of 0.2: AUROC = Phi(0.4 / (0.2 * sqrt 2)) = 0.921, clipping aside.
        for name in ("score", "sem_nll", "entropy_max", REGRESSION):
            row = rows[name]
            assert (row.n, row.failures, row.base_rate, row.finding) == (160, 80, 0.5, ABOVE)
            assert row.auroc == pytest.approx(0.92, abs=0.06)
            assert row.aurc is not None
            assert row.aurc < 0.3
        assert rows["sem_nll"].brier is None
        assert rows[REGRESSION].ece is not None
        assert rows["name_margin"].n == 0
    assert rows_of(report, WELL_FORMED) == {}
    assert rows_of(report, TASK_SUCCESS)["no_error_seen"].auroc == 1.0


def test_noise_is_a_null_result(tmp_path: Path) -> None:
    rows = rows_of(report_of(planted(tmp_path / "r", 160, signal=0.0)), TASK_SUCCESS)
    known = {name: row.finding for name, row in rows.items() if not row.refused}
    assert known.pop("no_error_seen") == ABOVE
    assert set(known.values()) == {NULL}
    assert rows["score"].auroc == pytest.approx(0.5, abs=0.12)


def test_a_regression_is_tested_on_other_tasks_only(tmp_path: Path) -> None:
    """Three tasks, repeated: whatever is learnt of one cannot be tested on another of the same name."""
    events = []
    for number in range(120):
        name = number % 3
        call = Call(score=0.2 + 0.3 * name, measures={"naive_mean": 0.5, "call_decision": 0.5, "name_branch": 0.2 + 0.3 * name})
        events += task_events(f"t{name}#{number}", [call], success=name == 0, start=20.0 * number)
    rows = rows_of(report_of(write_journal(tmp_path / "r", events)), TASK_SUCCESS)
    assert "fewer than 5 tasks" in rows[REGRESSION].refused


def test_levels_see_only_what_passed_the_level_before(tmp_path: Path) -> None:
    outcomes = ["malformed", "undeclared", "schema_invalid", "tool_error", "ok", "ok"]
    tasks = load_task_records(
        [write_journal(tmp_path / "r", task_events("a", [Call(one) for one in outcomes], success=True, start=0.0))]
    )
    found = {level: [sample.good for sample in samples(tasks, level)] for level in LEVELS}
    assert {level: (len(good), good.count(False)) for level, good in found.items()} == {
        WELL_FORMED: (6, 2),
        SCHEMA_VALID: (4, 1),
        TOOL_OK: (3, 1),
        TASK_SUCCESS: (1, 0),
    }


def test_no_measure_is_graded_on_what_it_was_made_of(tmp_path: Path) -> None:
    """With one declared tool, name_branch is 1 for its name and a product of guesses for any other: it knows who is declared."""
    events = []
    for number in range(140):
        good = number % 2 == 0
        measures = {
            "name_branch": 1.0 if good else 0.4,
            "name_joint": 0.4,
            "naive_mean": 0.9,
            "args_min": 0.5,
            "call_decision": 0.9,
        }
        call = Call("ok" if good else "undeclared", 0.5, measures=measures)
        events += task_events(f"t{number}", [call], success=good, start=20.0 * number)
    rows = rows_of(report_of(write_journal(tmp_path / "r", events)), WELL_FORMED)
    assert {name for name, row in rows.items() if "knows this outcome" in row.refused} == {
        "score",
        "name_branch",
        "name_margin",
        "name_choice",
    }
    assert (rows["name_branch"].n, rows["name_branch"].auroc) == (140, None)
    assert (rows["name_joint"].auroc, rows["name_joint"].finding) == (0.5, NULL)
    assert rows[REGRESSION].finding != ABOVE


def test_few_failures_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = planted(tmp_path / "r", 98, signal=0.3)
    assert cli.main(["analyze", "confidence", str(directory)]) == 1
    said = capsys.readouterr().out
    assert "refused: 49 failures of 98; a claim needs 50" in said
    assert "AUROC" not in said.split("no claim")[0]


def test_a_task_is_as_sure_as_its_least_sure_call(tmp_path: Path) -> None:
    calls = [Call(measures={"args_min": 0.9, "sem_nll": 1.0}), Call(score=0.3, measures={"args_min": 0.4, "sem_nll": 3.0})]
    tasks = load_task_records([write_journal(tmp_path / "r", task_events("a", calls, success=True, start=0.0))])
    (sample,) = samples(tasks, TASK_SUCCESS)
    assert sample.measures == {"args_min": 0.4, "sem_nll": 3.0, "score": 0.3, "no_error_seen": 1.0}


def test_savings_count_what_came_after_the_doubtful_call(tmp_path: Path) -> None:
    doubtful = [Call(score=0.9, joules=4.0), Call(score=0.15, joules=6.0), Call(score=0.9, joules=20.0)]
    events = [
        *task_events("bad", doubtful, success=False, start=0.0, joules=33.0),
        *task_events("good", doubtful[:2], success=True, start=100.0, joules=11.0),
        *task_events("sure", [Call(score=0.95, joules=5.0)], success=False, start=200.0, joules=6.0),
    ]
    tasks = load_task_records([write_journal(tmp_path / "r", events)])
    at = {one.threshold: one for one in savings_by_threshold(tasks)}
    assert (at[0.1].given_up, at[0.1].saved_joules) == (0, 0.0)
    assert (at[0.2].given_up, at[0.2].failures, at[0.2].lost_successes) == (2, 1, 1)
    assert (at[0.2].saved_joules, at[0.2].all_joules) == (23.0, 50.0)
    bad = tasks[0]
    by_time = type(bad)(**{**{name: getattr(bad, name) for name in bad.__dataclass_fields__}, "call_joules": {}})
    assert joules_after(by_time, bad.calls[1]) == pytest.approx(33.0 / 3)
    unknown = type(bad)(**{**{name: getattr(bad, name) for name in bad.__dataclass_fields__}, "joules": None})
    assert joules_after(unknown, bad.calls[1]) is None
    assert savings_by_threshold([unknown])[2].saved_joules is None


def test_the_command_prints_a_table_json_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = planted(tmp_path / "r", 120, signal=0.2)
    plot = tmp_path / "plot.html"
    assert cli.main(["analyze", "confidence", str(directory), "--plot", str(plot)]) == 0
    said = capsys.readouterr().out
    assert "task success: n 120, failures 60, 50.0 % good" in said
    assert sum(line.startswith("  score ") for line in said.splitlines()) == 2
    assert "unknown" in said
    assert "scripted:1b: task success, n 120" in plot.read_text(encoding="utf-8")
    assert cli.main(["analyze", "confidence", str(directory), "--format", "json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["levels"][-1]["measures"][0]["n"] == 120


def test_what_is_no_directory_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["analyze", "confidence", str(tmp_path / "none")]) == 2
    assert "is no directory" in capsys.readouterr().err
