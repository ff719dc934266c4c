"""Every check on results that are well, on results that are not, and on results that do not tell."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from joulebench import cli
from joulebench.doctor import reference_ranges
from joulebench.doctor.examine import DoctorReport, examine_results
from joulebench.doctor.findings import FAILURE, OK, SKIPPED, WARNING, CheckResult
from joulebench.doctor.plausibility_checks import KnownPower, pearson
from joulebench.errors import UserError

Json = dict[str, Any]


def good(index: int = 0, model: str = "qwen3:8b", seconds: float = 10.0) -> Json:
    """A task of our own runner, measured well: 250 W for ``seconds``."""
    joules = 250.0 * seconds
    events: list[Json] = []
    for call in range(4):
        events.append({"event_type": "TOOL_CALL_START", "timestamp": 1.0, "tool_call": call, "confidence": 0.9 + 0.01 * call})
        events.append({"event_type": "TOOL_CALL_END", "timestamp": 2.0, "tool_call": call, "success": True})
    return {
        "schema_version": 1,
        "metadata": {"run_id": "r", "task_id": f"t{index}", "worker": "w", "model_name": model},
        "raw_events": events,
        "computed_metrics": {
            "total_duration_seconds": seconds,
            "llm_token_usage": {"total_completion_tokens": 500},
            "task_completion_status": {"status": "success", "success": True},
            "ttft_metrics": {"average_ttft_ms": 200.0},
            "generation_time_metrics": {"average_generation_time_ms": 2000.0},
            "throughput_metrics": {"overall_tokens_per_second": 60.0, "decode_tokens_per_second": 80.0},
            "tool_confidence_metrics": {"avg_tool_confidence": 0.915, "min_tool_confidence": 0.9, "max_tool_confidence": 0.93},
        },
        "gpu_hardware_metrics": {
            "avg_power_w": 250.0,
            "max_power_w": 300.0,
            "avg_vram_mb": 9000.0,
            "avg_temp_c": 60.0,
            "total_energy_joules": joules,
            "monitoring_duration_sec": seconds,
            **{f"energy_h{i}_joules": joules / 2 for i in (1, 2)},
            **{f"energy_q{i}_joules": joules / 5 for i in range(1, 6)},
        },
        "measurement": {
            "joules": joules,
            "low_joules": joules * 0.99,
            "high_joules": joules * 1.01,
            "quality": "ok",
            "coverage": 1.0,
            "longest_gap_seconds": 0.1,
            "counter_resets": 0,
            "device_basis": "declared",
            "devices": [{"host": "a:18347", "gpu": "0", "uuid": "GPU-a0"}],
            "simulated": False,
            "reasons": [],
            "clock_offset_seconds": {"benchmark_to_gateway": 0.001, "exporter_to_prometheus": -0.002},
        },
        "per_gpu": [{"gpu": "0", "name": "NVIDIA H100 80GB HBM3", "power_w": {"mean": 248.0}}],
        "throttle": {"throttled_seconds": 0.0},
        "attribution": {"overlap_fraction": 0.0},
        "meters": {"rapl": meter("cpu", 100.0 * seconds), "plug": meter("wall", 500.0 * seconds)},
        "emissions": {"carbon": {"amount": 1.0, "unit": "grams", "of": "wall", "quality": "ok"}},
    }


def meter(scope: str, joules: float) -> Json:
    bounds = {"low_joules": 0.9 * joules, "high_joules": 1.1 * joules}
    return {"scope": scope, "joules": joules, "attributed_joules": joules, **bounds, "overlap_fraction": 0.0, "quality": "ok"}


def write(directory: Path, bodies: list[Json]) -> Path:
    directory.mkdir(exist_ok=True)
    for index, body in enumerate(bodies):
        (directory / f"result_{index}.json").write_text(json.dumps(body))
    return directory


def well() -> list[Json]:
    return [good(index, seconds=5.0 + index) for index in range(6)]


def found(report: DoctorReport, check: str) -> CheckResult:
    (finding,) = [one for one in report.findings if one.check == check]
    return finding


def test_good_results_pass_every_check_that_they_tell_of(tmp_path: Path) -> None:
    report = examine_results(write(tmp_path / "r", well()))
    assert {one.check: one.severity for one in report.findings if one.severity != OK} == {"failures by confidence": SKIPPED}
    assert (report.verdict, report.tasks) == (SKIPPED, 6)
    assert found(report, "devices").reason == "6 declared: a:18347/GPU-a0"
    assert cli.main(["doctor", str(tmp_path / "r"), "--strict"]) == 0


def at(body: Json, *keys: str) -> Json:
    for key in keys:
        body = body[key]
    return body


Spoil = Callable[[Json], object]
SPOILED: list[tuple[str, str, Spoil]] = [
    ("status", WARNING, lambda b: at(b, "computed_metrics", "task_completion_status").update(status=None)),
    ("energy known", FAILURE, lambda b: at(b, "measurement").update(joules=None, reasons=["no_samples"])),
    ("no invented zero", FAILURE, lambda b: at(b, "gpu_hardware_metrics").update(total_energy_joules=0.0)),
    ("measured cards", WARNING, lambda b: at(b, "measurement").update(simulated=True)),
    ("devices", WARNING, lambda b: at(b, "measurement").update(reasons=["devices_assumed"])),
    ("devices", WARNING, lambda b: at(b, "measurement").update(device_basis="observed")),
    ("coverage", FAILURE, lambda b: at(b, "measurement").update(coverage=0.9)),
    ("longest gap", WARNING, lambda b: at(b, "measurement").update(longest_gap_seconds=60.0)),
    ("counter resets", WARNING, lambda b: at(b, "measurement").update(counter_resets=1)),
    ("bounds", FAILURE, lambda b: at(b, "measurement").update(high_joules=1.0)),
    ("E = P x t", FAILURE, lambda b: at(b, "gpu_hardware_metrics").update(avg_power_w=240.0)),
    ("parts add up", FAILURE, lambda b: at(b, "gpu_hardware_metrics").update(energy_q3_joules=1.0)),
    ("clock offset", FAILURE, lambda b: at(b, "measurement", "clock_offset_seconds").update(benchmark_to_gateway=-3.0)),
    ("overlap", WARNING, lambda b: at(b, "attribution").update(overlap_fraction=0.4)),
    ("other programs", WARNING, lambda b: at(b, "measurement").update(reasons=["foreign_process"])),
    ("other reasons", WARNING, lambda b: at(b, "measurement").update(reasons=["glitch", "foreign_process"])),
    ("throttling", WARNING, lambda b: at(b, "throttle").update(throttled_seconds=2.0)),
    ("meters known", WARNING, lambda b: at(b, "meters", "rapl").update(attributed_joules=None, reasons=["no_samples"])),
    ("scopes", FAILURE, lambda b: at(b, "meters", "plug").update(high_joules=100.0)),
    ("emissions known", WARNING, lambda b: at(b, "emissions", "carbon").update(amount=None, reasons=["no_factor"])),
    ("power above idle", FAILURE, lambda b: at(b, "gpu_hardware_metrics").update(avg_power_w=3.0)),
    ("power within limit", FAILURE, lambda b: at(b, "gpu_hardware_metrics").update(avg_power_w=900.0)),
    ("joules per token", WARNING, lambda b: at(b, "computed_metrics", "llm_token_usage").update(total_completion_tokens=2)),
    ("joules per token", WARNING, lambda b: at(b, "computed_metrics", "llm_token_usage").update(total_completion_tokens=10**7)),
    (
        "tokens per second",
        WARNING,
        lambda b: at(b, "computed_metrics", "throughput_metrics").update(decode_tokens_per_second=9e4),
    ),
    ("time to first token", WARNING, lambda b: at(b, "computed_metrics", "ttft_metrics").update(average_ttft_ms=1999.0)),
    ("confidence", FAILURE, lambda b: at(b, "computed_metrics", "tool_confidence_metrics").update(min_tool_confidence=-0.2)),
    ("confidence", FAILURE, lambda b: b["raw_events"][0].update(confidence="high")),
]


@pytest.mark.parametrize(("check", "severity", "spoil"), SPOILED, ids=[f"{c}-{i}" for i, (c, _, _) in enumerate(SPOILED)])
def test_what_is_wrong_is_found_with_its_file_its_reason_and_its_fix(
    tmp_path: Path, check: str, severity: str, spoil: Spoil
) -> None:
    bodies = copy.deepcopy(well())
    spoil(bodies[2])
    report = examine_results(write(tmp_path / "r", bodies))
    finding = found(report, check)
    assert finding.severity == severity
    assert [case.path.name for case in finding.cases] == ["result_2.json"]
    assert finding.cases[0].saw
    assert finding.fix
    assert finding.reason.startswith("1 of 6 tasks")
    assert cli.main(["doctor", str(tmp_path / "r")]) == (1 if severity == FAILURE else 0)
    assert cli.main(["doctor", str(tmp_path / "r"), "--strict"]) == 1


def test_what_a_file_does_not_tell_is_not_judged(tmp_path: Path) -> None:
    bare = {"metadata": {"session_start_unix": 1.0}, "raw_events": [], "computed_metrics": "ERROR_GETTING_VALUE: x"}
    report = examine_results(write(tmp_path / "r", [bare]))
    assert found(report, "energy known").severity == FAILURE
    assert found(report, "status").severity == WARNING
    others = {
        one.severity for one in report.findings if one.check not in ("energy known", "status", "readable", "each task once")
    }
    assert others == {SKIPPED}


def test_a_torn_file_and_a_copy_are_told(tmp_path: Path) -> None:
    root = write(tmp_path / "r", [good(0), good(0), good(1)])
    (root / "result_9.json").write_text('{"metadata":')
    report = examine_results(root)
    assert found(report, "readable").severity == FAILURE
    assert [case.path.name for case in found(report, "each task once").cases] == ["result_1.json"]


def test_what_the_user_knows_counts_before_tables(tmp_path: Path) -> None:
    root = write(tmp_path / "r", well())
    assert found(examine_results(root, KnownPower(limit_watts=200.0)), "power within limit").severity == FAILURE
    assert found(examine_results(root, KnownPower(idle_watts=280.0)), "power above idle").severity == FAILURE
    assert found(examine_results(root, KnownPower(idle_watts=60.0, limit_watts=300.0)), "power within limit").severity == OK


def test_energy_that_does_not_follow_duration_is_told(tmp_path: Path) -> None:
    bodies = well()
    for index, body in enumerate(bodies):
        body["measurement"]["joules"] = 1000.0 + 100 * ((index * 5) % 6)
    assert found(examine_results(write(tmp_path / "r", bodies)), "energy and duration").severity == WARNING
    few = write(tmp_path / "few", well()[:3])
    assert found(examine_results(few), "energy and duration").severity == SKIPPED


@pytest.mark.parametrize(("sure_calls_fail", "severity"), [(False, OK), (True, WARNING)])
def test_failures_are_counted_by_confidence(tmp_path: Path, sure_calls_fail: bool, severity: str) -> None:
    body = good()
    body["raw_events"] = []
    for call in range(120):
        confidence = (call % 100) / 100
        failed = (confidence > 0.4) if sure_calls_fail else (confidence < 0.6)
        body["raw_events"] += [
            {"event_type": "TOOL_CALL_START", "tool_name": "a", "confidence": confidence},
            {"event_type": "TOOL_CALL_END", "tool_name": "a", "success": not failed},
        ]
    finding = found(examine_results(write(tmp_path / "r", [body])), "failures by confidence")
    assert finding.severity == severity
    assert "AUROC" in finding.reason


def test_the_report_is_data_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bodies = well()
    bodies[0]["measurement"]["coverage"] = 0.5
    root = write(tmp_path / "r", bodies)
    assert cli.main(["doctor", str(root), "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert (data["tasks"], data["verdict"]) == (6, "failure")
    (coverage,) = [one for one in data["findings"] if one["check"] == "coverage"]
    assert coverage["cases"] == [{"path": str(root / "result_0.json"), "saw": "50.0%"}]


def test_bad_input_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UserError, match="RESULTS"):
            examine_results(path)
    assert cli.main(["doctor", str(write(tmp_path / "r", [good()])), "--idle-watts", "-4"]) == 2


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("qwen3-vl:8b", (8.0, 8.0)),
        ("hf.co/org/Llama-3.1-70B-Instruct-GGUF:Q4_K_M", (70.0, 70.0)),
        ("qwen3:30b-a3b", (30.0, 3.0)),
        ("Qwen3-VL-235B-A22B", (235.0, 22.0)),
        ("smollm2-135m", (0.135, 0.135)),
        ("SmolLM2-1.7B-Instruct", (1.7, 1.7)),
        ("gpt-oss_20b", (20.0, 20.0)),
        ("gpt-4o", None),
        ("llama3.1", None),
        ("mistral:latest", None),
    ],
)
def test_a_models_size_is_read_from_its_name(name: str, size: tuple[float, float] | None) -> None:
    assert reference_ranges.size_of(name) == size


@pytest.mark.parametrize(
    ("model", "joules"),
    [("Qwen3-8B", 0.072), ("Qwen3-8B", 3.0), ("Llama-3.1-70B", 3.759), ("Qwen3-30B-A3B", 0.186), ("Qwen2.5-3B", 0.83)],
)
def test_published_measurements_lie_in_the_ranges(model: str, joules: float) -> None:
    size = reference_ranges.size_of(model)
    assert size is not None
    low, high = reference_ranges.joules_per_token(size)
    assert low <= joules <= high


def test_correlation_by_hand() -> None:
    assert pearson([(1, 2), (2, 4), (3, 6)]) == pytest.approx(1.0)
    assert pearson([(1, 3), (2, 2), (3, 1)]) == pytest.approx(-1.0)
    assert pearson([(1, 5), (2, 5)]) is None


def test_a_limit_that_nobody_knows_skips_its_check_and_says_why(tmp_path: Path) -> None:
    bodies = well()
    for body in bodies:
        body["per_gpu"] = [{"gpu": "0", "name": "NVIDIA GeForce RTX 3060 Laptop GPU"}]
    report = examine_results(write(tmp_path / "r", bodies))
    limit, samples = found(report, "power within limit"), found(report, "power samples")
    assert (limit.severity, samples.severity) == (SKIPPED, SKIPPED)
    assert limit.reason == "the power limit of NVIDIA GeForce RTX 3060 Laptop GPU is not known; give --limit-watts"
    assert samples.reason.startswith("no power samples")
    idle = found(report, "power above idle")
    assert (idle.severity, idle.reason) == (SKIPPED, limit.reason.replace("give ", "give --idle-watts or "))
    mixed = [*well()[:3], *bodies[3:]]
    assert found(examine_results(write(tmp_path / "mixed", mixed)), "power within limit").reason.startswith(
        "3 of 6 tasks, 3 not checked"
    )


def test_power_samples_are_an_independent_check_of_the_counter(tmp_path: Path) -> None:
    bodies = well()
    bodies[2]["per_gpu"][0]["power_w"]["mean"] = 150.0
    finding = found(examine_results(write(tmp_path / "r", bodies)), "power samples")
    assert finding.severity == WARNING
    assert finding.cases[0].saw == "power samples give 1050 J, not 1750 J"
