"""Comparisons of runs whose joules and successes the test wrote: every number must be the truth, every refusal must say why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from joulebench import cli
from joulebench.analysis.comparison import (
    ALLOWABLE,
    BETTER,
    NONE,
    PERHAPS_BETTER,
    TOO_FEW,
    UNKNOWN,
    WORSE,
    Comparison,
    Difference,
    arms_of_runs,
    compare,
    parse_selection,
)
from joulebench.analysis.runs import load_run
from joulebench.cli import analyze as command
from joulebench.errors import UserError
from tests.fakes.scripted_run import Scripted, write

TASKS = 20
BASE = [Scripted(f"t{n}", success=n % 2 == 0, joules=100.0 + n) for n in range(TASKS)]
THRIFTY = [replace(one, model="model-b", joules=(one.joules or 0) / 2, completion_tokens=60) for one in BASE]


def compared(folder: Path, *arms: Sequence[Scripted], allow: Sequence[str] = ()) -> Comparison:
    found = [load_run(write(folder / f"run-{place}", rows)) for place, rows in enumerate(arms)]
    return compare(arms_of_runs([(run, None) for run in found]), allow)


def differences(comparison: Comparison) -> dict[str, Difference]:
    (pair,) = comparison.pairs
    assert pair.refusals == ()
    return {one.measure.key: one for one in pair.differences}


def test_every_measure_is_the_ratio_of_the_sums(tmp_path: Path) -> None:
    found = differences(compared(tmp_path, BASE, THRIFTY))
    joules = sum(100.0 + n for n in range(TASKS))
    truth = {
        "joules_per_success": (joules / 10, joules / 20),
        "success_rate": (0.5, 0.5),
        "success_per_joule": (10 / joules, 20 / joules),
        "tokens_per_joule": (TASKS * 550 / joules, TASKS * 560 * 2 / joules),
        "joules_per_completion_token": (joules / (TASKS * 50), joules / 2 / (TASKS * 60)),
        "seconds_per_task": (10.0, 10.0),
    }
    assert {key: one.base.value for key, one in found.items()} == pytest.approx({key: base for key, (base, _) in truth.items()})
    assert {key: one.arm.value for key, one in found.items()} == pytest.approx({key: arm for key, (_, arm) in truth.items()})
    energy = found["joules_per_success"]
    assert energy.difference.value == pytest.approx(joules / 20 - joules / 10)
    assert energy.quotient.value == pytest.approx(0.5)
    assert energy.difference.interval is not None
    assert energy.difference.interval.contains(-joules / 20)


def test_the_same_tasks_at_half_the_joules_are_better_and_the_other_way_round_worse(tmp_path: Path) -> None:
    findings = {key: one.finding for key, one in differences(compared(tmp_path, BASE, THRIFTY)).items()}
    assert findings["joules_per_success"] == BETTER
    assert findings["success_per_joule"] == BETTER
    assert findings["success_rate"] == findings["seconds_per_task"] == NONE
    assert differences(compared(tmp_path / "turned", THRIFTY, BASE))["joules_per_success"].finding == WORSE


def test_a_run_against_itself_shows_no_difference(tmp_path: Path) -> None:
    found = differences(compared(tmp_path, BASE, BASE))
    assert {one.finding for one in found.values()} == {NONE}


def test_failures_cost_their_joules(tmp_path: Path) -> None:
    """Cheaper attempts that mostly fail are dearer by success, and cheaper by nothing else that counts them."""
    hasty = [replace(one, model="model-b", joules=60.0, success=n < 4) for n, one in enumerate(BASE)]
    sure = [replace(one, joules=100.0, success=True) for one in BASE]
    found = differences(compared(tmp_path, sure, hasty))
    assert found["joules_per_success"].arm.value == pytest.approx(60 * TASKS / 4)
    assert found["joules_per_success"].finding == WORSE


def test_without_a_success_there_is_no_number_and_no_finding(tmp_path: Path) -> None:
    none = [replace(one, model="model-b", success=False) for one in BASE]
    energy = differences(compared(tmp_path, BASE, none))["joules_per_success"]
    assert (energy.arm.value, energy.difference.value, energy.finding) == (None, None, UNKNOWN)


def test_an_outcome_that_nobody_knows_is_no_success(tmp_path: Path) -> None:
    unknown = [replace(one, model="model-b", success=None if one.success else False) for one in BASE]
    assert differences(compared(tmp_path, BASE, unknown))["success_rate"].arm.value == 0


def test_below_six_tasks_there_is_no_finding_and_below_five_no_interval(tmp_path: Path) -> None:
    five = differences(compared(tmp_path / "five", BASE[:5], THRIFTY[:5]))
    assert {one.finding for one in five.values()} == {TOO_FEW}
    four = differences(compared(tmp_path / "four", BASE[:4], THRIFTY[:4]))
    assert {one.finding for one in four.values()} == {TOO_FEW}
    assert four["joules_per_success"].difference.interval is None


def test_repeats_belong_to_their_task_and_uneven_ones_weigh_the_same(tmp_path: Path) -> None:
    repeated = [*THRIFTY, *(replace(one, task_id=f"{one.task_id}#2", joules=1e6) for one in THRIFTY[:1])]
    comparison = compared(tmp_path, BASE, repeated)
    (pair,) = comparison.pairs
    assert (pair.tasks, pair.attempts) == (TASKS, (TASKS, TASKS + 1))
    assert any("differ in number" in note for note in pair.notes)
    mean = (sum(one.joules or 0 for one in THRIFTY[1:]) + (50 + 1e6) / 2) / 10
    assert differences(comparison)["joules_per_success"].arm.value == pytest.approx(mean)


def test_tasks_of_one_arm_only_do_not_count_and_are_named(tmp_path: Path) -> None:
    (pair,) = compared(tmp_path, BASE, THRIFTY[:-2]).pairs
    assert pair.tasks == TASKS - 2
    assert "only model-a has t18, t19" in pair.notes


@pytest.mark.parametrize(
    ("changed", "why", "allow"),
    [
        ({"suite": "other"}, "different suites (files and other)", "suite"),
        ({"simulated": True}, "model-b are simulated", "simulated"),
        ({"basis": "assumed"}, "declared for model-a and assumed for model-b", "basis"),
        ({"quality": "suspect", "reasons": ("throttled",)}, "20 of 20 attempts of model-b are throttled", "throttled"),
        ({"quality": "suspect", "reasons": ("overlap",), "overlap": 0.5}, "overlapped by other tasks", "overlap"),
        ({"quality": "suspect", "reasons": ("below_idle",)}, "20 of 20 attempts of model-b are suspect", "suspect"),
    ],
)
def test_what_cannot_be_compared_is_refused_until_told_to(
    tmp_path: Path, changed: dict[str, object], why: str, allow: str
) -> None:
    other = [replace(one, **changed) for one in THRIFTY]  # type: ignore[arg-type]
    base = [replace(one, basis="declared") for one in BASE]
    refused = compared(tmp_path, base, other)
    (pair,) = refused.pairs
    assert refused.refused
    assert pair.differences == ()
    assert any(why in refusal and f"--allow {allow}" in refusal for refusal in pair.refusals), pair.refusals
    assert differences(compared(tmp_path / "told", base, other, allow=[allow]))["joules_per_success"].arm.value is not None


def test_a_few_doubtful_attempts_are_left_out_with_their_reason(tmp_path: Path) -> None:
    doubtful = [replace(THRIFTY[0], quality="suspect", reasons=("throttled",), joules=1e9), *THRIFTY[1:]]
    doubtful[1] = replace(doubtful[1], joules=None, quality="missing", reasons=("no_samples",))
    comparison = compared(tmp_path, BASE, doubtful)
    assert [(one.task_id, one.reason, one.energy_only) for one in comparison.excluded] == [
        ("t0", "throttled", False),
        ("t1", "no joules (no_samples)", True),
    ]
    assert comparison.pairs[0].tasks == TASKS - 1
    assert {key: one.tasks for key, one in differences(comparison).items()} == {
        "joules_per_success": TASKS - 2,
        "success_rate": TASKS - 1,
        "success_per_joule": TASKS - 2,
        "tokens_per_joule": TASKS - 2,
        "joules_per_completion_token": TASKS - 2,
        "seconds_per_task": TASKS - 1,
    }
    assert differences(comparison)["joules_per_success"].finding == BETTER


def test_models_of_one_run_are_arms_and_one_can_be_picked(tmp_path: Path) -> None:
    directory = write(tmp_path / "both", [*BASE, *THRIFTY])
    assert [arm.label for arm in arms_of_runs([(load_run(directory), None)])] == ["model-a", "model-b"]
    assert parse_selection(f"{directory}@qwen3:8b") == (directory, "qwen3:8b")
    with pytest.raises(UserError, match="no such model; it has model-a, model-b"):
        arms_of_runs([(load_run(directory), "qwen3:8b")])
    with pytest.raises(UserError, match="only model-a to compare"):
        compare(arms_of_runs([(load_run(directory), "model-a")]))


def test_the_command_prints_and_tells_by_its_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write(tmp_path / "a", BASE), write(tmp_path / "b", THRIFTY)
    simulated = write(tmp_path / "c", [replace(one, simulated=True) for one in BASE])
    assert cli.main(["compare", str(a), str(b)]) == 0
    shown = capsys.readouterr().out
    assert "model-b is better (0.50 times" in shown
    assert "no difference shown" in shown
    assert cli.main(["compare", str(a), str(simulated)]) == 1
    assert "refused: the joules of" in capsys.readouterr().out
    assert cli.main(["compare", str(a), str(b), "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pairs"][0]["measures"]["joules_per_success"]["finding"] == BETTER
    assert cli.main(["compare", str(a), str(tmp_path / "nowhere")]) == 2
    assert "give the directory of an exported run" in capsys.readouterr().err


def test_devices_that_are_known_in_different_ways_are_refused_with_code_2_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    declared = write(tmp_path / "a", [replace(one, basis="declared", devices=("GPU-a0", "GPU-a1")) for one in BASE])
    assumed = write(tmp_path / "b", [replace(one, basis="assumed", devices=("GPU-b0",)) for one in THRIFTY])
    unknown = write(tmp_path / "c", THRIFTY)
    assert cli.main(["compare", str(declared), str(assumed)]) == 2
    shown = capsys.readouterr().out
    assert "refused: the devices that the joules are of are known in different ways" in shown
    assert "  model-a: declared, GPU-a0, GPU-a1\n  model-b: assumed, GPU-b0\n" in shown
    assert cli.main(["compare", str(declared), str(assumed), "--allow", "basis"]) == 0
    assert "note: devices declared for model-a, assumed for model-b" in capsys.readouterr().out
    assert cli.main(["compare", str(declared), str(unknown), "--format", "json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["arms"]
    assert (first["device_bases"], first["devices"]) == (["declared"], ["GPU-a0", "GPU-a1"])
    assert (second["device_bases"], second["devices"]) == ([], [])


def test_the_commands_offer_what_can_be_allowed() -> None:
    assert set(command.ALLOW) == set(ALLOWABLE)


def test_a_file_that_is_no_result_is_told_by_name(tmp_path: Path) -> None:
    directory = write(tmp_path / "a", BASE[:1])
    (directory / "result_zzz.json").write_text('{"measurement": {}}')
    with pytest.raises(UserError, match=r"result_zzz\.json: has neither metadata nor raw_events"):
        load_run(directory)


def test_many_differences_make_each_finding_harder(tmp_path: Path) -> None:
    """The same weak difference is a finding alone and but perhaps one among many."""
    joules = [80.0, 97, 90, 104, 92, 85, 101, 97, 94, 90, 99, 88, 95, 103, 91, 86, 100, 95, 93, 98]
    weak = [replace(one, model="model-b", joules=told) for one, told in zip(BASE, joules, strict=True)]
    base = [replace(one, joules=100.0 + (n % 3 - 1) * 6) for n, one in enumerate(BASE)]
    alone = differences(compared(tmp_path / "alone", base, weak))["joules_per_success"]
    assert alone.finding == BETTER
    same = [[replace(one, model=f"copy-{n}") for one in base] for n in range(8)]
    pairs = compared(tmp_path / "many", base, weak, *same).pairs
    (among,) = [pair for pair in pairs if (pair.base, pair.arm) == ("model-a", "model-b")]
    found = {one.measure.key: one for one in among.differences}["joules_per_success"]
    assert found.difference == alone.difference
    assert (found.adjusted or 0) > (alone.adjusted or 1)
    assert found.finding in (PERHAPS_BETTER, BETTER)
    assert {one.finding for pair in pairs if "model-b" not in (pair.base, pair.arm) for one in pair.differences} == {NONE}


def test_arms_that_did_not_take_turns_are_told(tmp_path: Path) -> None:
    later = tmp_path / "run-1"
    write(later, [*(replace(one, task_id=f"early-{n}") for n, one in enumerate(BASE)), *BASE])
    for path in sorted(later.glob("result_*.json"))[:TASKS]:
        path.unlink()
    found = [load_run(write(tmp_path / "run-0", BASE)), load_run(later)]
    (pair,) = compare(arms_of_runs([(run, None) for run in found])).pairs
    assert any("ran after model-a in run-0" in note for note in pair.notes), pair.notes
    assert any("same model in both" in note for note in pair.notes)
    (turns,) = compared(tmp_path / "turns", BASE, THRIFTY).pairs
    assert not any("ran after" in note or "same model" in note for note in turns.notes)


def test_without_any_joules_success_is_still_compared(tmp_path: Path) -> None:
    """Ten tasks that only the other model solves: the exact p-value is 2 / 2**10."""
    base = [replace(one, joules=None, quality="missing") for one in BASE]
    other = [replace(one, model="model-b", joules=None, quality="missing", success=True) for one in BASE]
    found = differences(compared(tmp_path, base, other))
    assert found["success_rate"].p == pytest.approx(2 / 2**10)
    assert (found["success_rate"].finding, found["success_rate"].discordant) == (BETTER, 10)
    assert (found["joules_per_success"].finding, found["joules_per_success"].tasks) == (UNKNOWN, 0)


def test_few_different_outcomes_are_no_finding_and_say_how_many_tasks_would_do(tmp_path: Path) -> None:
    """Three of 18 tasks that only one model solves: McNemar's exact p-value is 2 / 2**3; six such tasks take twice as many."""
    base = [replace(one, success=True) for one in BASE[:18]]
    worse = [replace(one, model="model-b", success=n >= 3) for n, one in enumerate(base)]
    comparison = compared(tmp_path, base, worse)
    rate = differences(comparison)["success_rate"]
    assert rate.p == pytest.approx(0.25)
    assert (rate.finding, rate.discordant, rate.tasks_needed) == (NONE, 3, 36)
    assert any("about 36 tasks would do" in note for note in comparison.pairs[0].notes)


def test_zero_successes_bound_what_a_success_may_cost(tmp_path: Path) -> None:
    """Of 20 failures of 100 J each the success rate is at most Wilson's t**2 / (20 + t**2) with t of 19 degrees of freedom."""
    none = [replace(one, model="model-b", success=False, joules=100.0) for one in BASE]
    found = differences(compared(tmp_path, BASE, none))
    most = 2.093**2 / (20 + 2.093**2)
    per_joule, per_success = found["success_per_joule"].arm, found["joules_per_success"].arm
    assert per_joule.value == 0
    assert per_joule.interval is not None
    assert per_joule.interval.low == 0
    assert per_joule.interval.high == pytest.approx(most / 100, rel=1e-3)
    assert per_success.value is None
    assert per_success.interval is not None
    assert per_success.interval.high is None
    assert per_success.interval.low == pytest.approx(100 / most, rel=1e-3)


def test_a_directory_of_several_runs_is_refused_and_names_them(tmp_path: Path) -> None:
    write(tmp_path / "runs/run-a", BASE)
    write(tmp_path / "runs/run-b", THRIFTY)
    with pytest.raises(UserError, match=r"has results of 2 runs \(run-a, run-b\); give the directory of each run"):
        load_run(tmp_path / "runs")


def test_results_of_the_mcpworld_client_count_for_success(tmp_path: Path) -> None:
    """Its files have no run, no energy of ours and the task in its configuration."""
    for model, good in (("a", 0), ("b", 12)):
        for number in range(12):
            content = {
                "metadata": {"model_name": model, "task_config_at_start": {"task_id": f"t{number}"}, "session_start_unix": 1.0},
                "raw_events": [],
                "computed_metrics": {
                    "total_duration_seconds": 5.0,
                    "task_completion_status": {"status": "success", "success": number < good},
                },
            }
            path = tmp_path / f"logs/{model}_{number}/result_{model}_{number}.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(content), encoding="utf-8")
    run = load_run(tmp_path / "logs")
    assert (run.name, len(run.attempts)) == ("logs", 24)
    rate = differences(compare(arms_of_runs([(run, None)])))["success_rate"]
    assert (rate.base.value, rate.arm.value, rate.finding) == (0.0, 1.0, BETTER)
