"""Risks of tasks whose truth the test drew: they must be honest, worth something only where there is something, or refused.

Threats: a risk that has seen its own outcome; text of a call that runs as script, fills the page or comes from another place.
"""

from __future__ import annotations

import csv
import io
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from joulebench import cli
from joulebench.analysis.prediction.confidence import ABOVE, NULL
from joulebench.analysis.prediction.failures import FEW_TASKS, NO_CALL, NO_TOKENS, Prediction, predict_failures
from joulebench.analysis.prediction.low_confidence import LOWEST, MOST_TEXT, OVERCONFIDENT, UNDECLARED, summarize_low_confidence
from joulebench.analysis.prediction.records import load_task_records
from tests.fakes.scripted_run import Scripted, write
from tests.unit.analysis.runs import Call, Event, planted, task_events, write_journal


def drawn(directory: Path, tasks: int, slope: float, seed: int = 3) -> Path:
    """Scores even between 0 and 1; a task fails with 0.8 - ``slope`` * score, so the true risk of each is known."""
    rng = random.Random(seed)
    events: list[Event] = []
    for number in range(tasks):
        score = rng.uniform(0.02, 0.98)
        good = rng.random() > 0.8 - slope * score
        call = Call("ok", score, measures={"naive_mean": score, "call_decision": 0.9, "name_branch": score})
        events += task_events(f"t{number}", [call], success=good, start=20.0 * number)
    return write_journal(directory, events)


def only(directory: Path) -> Prediction:
    (found,) = predict_failures(load_task_records([directory]))
    return found


def test_risks_are_the_shares_that_fail(tmp_path: Path) -> None:
    found = only(drawn(tmp_path / "r", 600, slope=0.7))
    assert found.finding == ABOVE
    assert found.skill.interval is not None
    assert found.skill.interval.low is not None
    assert found.skill.interval.low > 0
    off = [abs(risk.risk - (0.8 - 0.7 * risk.least_confidence)) for risk in found.risks if risk.risk and risk.least_confidence]
    assert len(off) == 600
    assert sum(off) / len(off) < 0.08
    assert found.ece is not None
    assert found.ece < 0.08
    assert sum(one.n for one in found.bins) == 600
    assert [one.risk for one in found.bins] == sorted(one.risk for one in found.bins)
    assert sum(one.n * one.failed for one in found.bins) == pytest.approx(found.failures)
    assert sum(one.low <= 0.8 - 0.7 * ((0.8 - one.risk) / 0.7) <= one.high for one in found.bins) >= len(found.bins) - 2


def test_noise_is_worth_nothing(tmp_path: Path) -> None:
    found = only(drawn(tmp_path / "r", 300, slope=0.0))
    assert found.finding == NULL
    assert found.skill.value is not None
    assert found.skill.value < 0.02
    assert found.skill.interval is not None
    assert found.skill.interval.low is not None
    assert found.skill.interval.low < 0


def test_too_few_failures_are_refused_with_what_is_missing(tmp_path: Path) -> None:
    found = only(planted(tmp_path / "r", 40, signal=0.3))
    assert found.refused == "20 failures of 40; a claim needs 50, 30 more"
    assert found.more_tasks == 60
    assert {risk.risk for risk in found.risks} == {None}
    assert {risk.why for risk in found.risks} == {"refused"}
    assert (found.auroc, found.skill.value, found.bins) == (None, None, ())


def test_repeats_of_few_tasks_are_refused(tmp_path: Path) -> None:
    events = []
    for number in range(150):
        events += task_events(f"t{number % 4}#{number}", [Call(score=0.5)], success=number % 4 < 2, start=20.0 * number)
    assert only(write_journal(tmp_path / "r", events)).refused == FEW_TASKS


def test_every_task_has_a_risk_or_a_reason(tmp_path: Path) -> None:
    directory = planted(tmp_path / "r", 140, signal=0.2)
    odd = [
        *task_events("unknown", [Call(score=0.1, measures=_measures(0.1))], success=None, start=1e6),
        *task_events("silent", [], success=False, start=2e6),
        *task_events("blind", [Call(score=None, measures={})], success=False, start=3e6),
    ]
    with (directory / "journal-w.jsonl").open("a") as journal:
        journal.writelines(json.dumps(event) + "\n" for event in odd)
    found = {risk.task_id: risk for risk in only(directory).risks}
    assert len(found) == 143
    assert found["unknown"].risk is not None
    assert found["unknown"].risk > 0.6
    assert (found["silent"].why, found["blind"].why) == (NO_CALL, NO_TOKENS)
    assert (found["silent"].risk, found["blind"].risk) == (None, None)


def _measures(score: float) -> dict[str, float]:
    names = ("call_decision", "name_joint", "name_branch", "args_min", "args_geo", "naive_mean")
    return {**dict.fromkeys(names, score), "sem_nll": 3.0 - 2.0 * score, "entropy_max": 1.5 - score}


def test_tools_and_tasks_have_their_mean_confidence_and_interval(tmp_path: Path) -> None:
    events = []
    for number in range(20):
        calls = [Call("ok", 0.9), Call("schema_invalid" if number < 5 else "ok", 0.2 + number / 100)]
        made = task_events(f"t{number // 10}#{number}" if number < 10 else f"t{number}", calls, success=True, start=50.0 * number)
        for event in made:
            if event.get("tool_call") == 2:
                event["tool_name"] = "write"
        events += made
    events += task_events("x", [Call("undeclared", 0.7)], success=True, start=9e5)
    found = summarize_low_confidence(load_task_records([write_journal(tmp_path / "r", events)]))
    assert [one.name for one in found.tools] == ["write", UNDECLARED, "t"]
    unsure = found.tools[0]
    assert (unsure.calls, unsure.scored, unsure.attempts) == (20, 20, 11)
    assert unsure.confidence.value == pytest.approx(0.2 + 9.5 / 100)
    assert unsure.confidence.interval is not None
    assert unsure.confidence.interval.contains(0.295)
    assert unsure.failed.value == 0.25
    repeated = next(one for one in found.tasks if one.name == "t0")
    assert (repeated.attempts, repeated.calls) == (10, 20)
    assert repeated.confidence.interval is not None
    assert next(one for one in found.tasks if one.name == "t11").confidence.interval is None


def test_the_worst_calls_have_their_text_cut_and_only_from_their_own_journal(tmp_path: Path) -> None:
    events = task_events("a", [Call("ok", 0.1), Call("tool_error", 0.9), Call("ok", 0.8)], success=False, start=0.0)
    events[3]["args"] = {"text": "</script>\u202e" + "x" * 5000}
    events[8]["error"] = "no\nsuch file"
    directory = write_journal(tmp_path / "r", events)
    calls = summarize_low_confidence(load_task_records([directory])).calls
    assert [(one.kind, one.score) for one in calls] == [
        (LOWEST, 0.1),
        (LOWEST, 0.8),
        (LOWEST, 0.9),
        (OVERCONFIDENT, 0.9),
    ]
    assert calls[0].args is not None
    assert calls[0].args.startswith('{"text": "</script> xxx')
    assert len(calls[0].args) == MOST_TEXT
    assert calls[3].answer == "no such file"
    journal = directory / "journal-w.jsonl"
    elsewhere = tmp_path / "elsewhere.jsonl"
    tasks = load_task_records([directory])
    journal.rename(elsewhere)
    assert {one.args for one in summarize_low_confidence(tasks).calls} == {None}
    journal.symlink_to(elsewhere)
    assert {one.args for one in summarize_low_confidence(tasks).calls} == {None}


def test_the_command_tells_text_json_and_a_table_to_join(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = planted(tmp_path / "r", 120, signal=0.2)
    assert cli.main(["analyze", "failures", str(directory)]) == 0
    said = capsys.readouterr().out
    assert "60 failures in 120 tasks" in said
    assert "above chance" in said
    assert cli.main(["analyze", "failures", str(directory), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["run_id"], row["task_id"]) for row in rows[:2]] == [("r", "t0"), ("r", "t1")]
    assert all(0 < float(row["failure_risk"]) < 1 for row in rows)
    assert cli.main(["analyze", "failures", str(directory), "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["predictions"][0]["risks"][0]["risk"] == pytest.approx(float(rows[0]["failure_risk"]))
    assert cli.main(["analyze", "failures", str(planted(tmp_path / "few", 20, 0.2))]) == 1
    assert "refused: 10 failures of 20; a claim needs 50, 40 more" in capsys.readouterr().out


def test_a_report_has_the_risk_of_each_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(5)
    attempts = []
    for number in range(150):
        score = rng.random()
        told = Scripted(f"t{number}", rng.random() < score, confidence=score, name=f"<b>t{number}")
        attempts.append(told)
    run = write(tmp_path / "run", attempts)
    assert cli.main(["report", str(run), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["failures"]["predictions"][0]["finding"] == ABOVE
    risks = [task["failure_risk"] for task in found["tasks"]]
    assert all(0 < risk < 1 for risk in risks)
    assert cli.main(["report", str(run)]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert 'id="figure-reliability"' in page
    assert "Worst tool calls" in page
    assert "<b>t" not in page.partition('<script type="application/json"')[0]
    assert cli.main(["report", str(run), "--format", "csv"]) == 0
    assert f"task,model-a,t0,failure_risk,{str(risks[0])[:6]}" in capsys.readouterr().out


def test_an_analysis_without_scikit_learn_says_what_is_missing(tmp_path: Path) -> None:
    run = write(tmp_path / "run", [Scripted(f"t{n}", n % 2 == 0, confidence=0.5) for n in range(120)])
    code = "import sys; sys.modules['sklearn'] = None; from joulebench import cli; sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "analyze", "failures", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the analysis needs sklearn" in done.stderr
    assert "pip install 'joulebench[analysis]'" in done.stderr
