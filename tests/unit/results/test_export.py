"""The export against a real Prometheus that holds a run with known joules, and against what is left when sources are missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from joulebench.clients.prometheus import PrometheusApi
from joulebench.errors import UserError
from joulebench.metrics import THROTTLE_REASONS
from joulebench.results.export import Export, Options, export
from joulebench.units import Seconds
from tests.goldens_support import Golden
from tests.unit.results import scenario
from tests.unit.results.scenario import GPUS, RUN, TASKS, joules
from tests.unit.results.store import START, filled_prometheus

pytestmark = pytest.mark.e2e


class Later:
    """A clock that stands an hour after the run."""

    def unix(self) -> Seconds:
        return Seconds(START + 3600.0)

    def monotonic(self) -> Seconds:
        return Seconds(1.0)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with filled_prometheus(tmp_path_factory.mktemp("prometheus"), scenario.fill) as running:
        yield running


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    scenario.write_journals(runs)
    return runs


@pytest.fixture(scope="module")
def exported(url: str, runs_dir: Path) -> Export:
    return export(Options(RUN, runs_dir), PrometheusApi(url), Later())


def rows(result: Export) -> dict[str, dict[str, Any]]:
    return {str(row["task_id"]): dict(row) for row in result.rows}


def record(result: Export, task_id: str) -> dict[str, Any]:
    name = rows(result)[task_id]["result_file"]
    loaded: dict[str, Any] = json.loads((result.csv_path.parent / name).read_text(encoding="utf-8"))
    return loaded


def truth(task_id: str) -> float:
    task = next(task for task in TASKS if task.task_id == task_id)
    assert task.end is not None
    return sum(joules(gpu, START + task.start, START + task.end) for gpu in range(len(GPUS)))


def test_every_task_of_either_source_has_a_row(exported: Export) -> None:
    assert sorted(rows(exported)) == sorted(task.task_id for task in TASKS)
    assert len(exported.json_paths) == len(TASKS)
    assert all(path.exists() for path in exported.json_paths)
    assert exported.notes == ["1 damaged lines in the journal were left out"]


@pytest.mark.parametrize("task_id", ["plain", "only/in:store", "only in journal", "=cmd()"])
def test_whole_tasks_are_exact(exported: Export, task_id: str) -> None:
    row = rows(exported)[task_id]
    assert row["total_energy_joules"] == pytest.approx(truth(task_id), rel=0.01)
    assert row["energy_low_joules"] <= truth(task_id) <= row["energy_high_joules"]
    assert row["total_energy_kwh"] == pytest.approx(row["total_energy_joules"] / 3.6e6)
    assert (row["energy_source"], row["energy_method"], row["gpu_source"]) == ("prometheus", "counter", "nvml")
    assert (row["energy_simulated"], row["gpu_count"]) == (False, 2)


def test_the_verdicts_tell_what_happened(exported: Export) -> None:
    verdicts = {task_id: (row["quality"], row["reasons"]) for task_id, row in rows(exported).items()}
    assert verdicts == {
        "plain": ("suspect", "throttled"),
        "short": ("short", "short"),
        "reset": ("suspect", "reset"),
        "gap": ("suspect", "gap"),
        "only in journal": ("ok", ""),
        "only/in:store": ("ok", ""),
        "=cmd()": ("ok", ""),
        "together a": ("suspect", "overlap"),
        "together b": ("suspect", "overlap"),
        "never ended": ("missing", "no_end"),
    }


def test_a_reset_loses_what_was_spent_around_it_and_says_so(exported: Export) -> None:
    row = rows(exported)["reset"]
    assert row["counter_resets"] == 1
    assert row["energy_high_joules"] is None
    assert truth("reset") - 35 <= row["total_energy_joules"] <= truth("reset")


def test_a_task_without_an_end_has_no_energy(exported: Export) -> None:
    row = rows(exported)["never ended"]
    assert (row["status"], row["success"], row["total_energy_joules"], row["end_timestamp_seconds"]) == (
        "unfinished",
        None,
        None,
        None,
    )
    assert record(exported, "never ended")["gpu_hardware_metrics"] is None


def test_where_each_value_came_from(exported: Export) -> None:
    assert record(exported, "plain")["measurement"]["sources"]["prompt_tokens"] == "both"
    assert record(exported, "plain")["measurement"]["disagreements"] == []
    assert set(record(exported, "only in journal")["measurement"]["sources"].values()) == {"journal"}
    assert set(record(exported, "only/in:store")["measurement"]["sources"].values()) == {"prometheus"}


def test_gauges_and_throttling(exported: Export) -> None:
    row, gpu = rows(exported)["plain"], record(exported, "plain")["gpu_hardware_metrics"]
    assert row["throttled_hw_thermal_seconds"] == pytest.approx(1.0)
    assert row["throttled_seconds"] == pytest.approx(1.0)
    assert row["throttled_sw_power_cap_seconds"] == 0.0
    assert rows(exported)["only/in:store"]["throttled_seconds"] == 0.0
    assert row["min_temp_margin_c"] == 18.0
    assert [one["min_temp_margin_c"] for one in record(exported, "plain")["per_gpu"]] == [18.0, None]
    assert [gpu["avg_gpu_util_pct"], gpu["max_gpu_util_pct"]] == pytest.approx([90.0, 90.0])
    assert [gpu["avg_vram_mb"], gpu["peak_vram_mb"]] == pytest.approx([14 * 1024, 14 * 1024])
    assert [gpu["max_temp_c"], gpu["avg_power_w"], gpu["max_power_w"]] == pytest.approx([70.0, 400.0, 400.0], rel=0.01)
    assert gpu["sample_count"] == 6
    assert rows(exported)["short"]["avg_gpu_util_pct"] is None


def test_the_43_keys_are_there_and_halves_and_fifths_add_up(exported: Export) -> None:
    gpu = record(exported, "plain")["gpu_hardware_metrics"]
    assert len(gpu) == 43
    assert gpu["energy_h1_joules"] + gpu["energy_h2_joules"] == pytest.approx(gpu["total_energy_joules"])
    assert sum(gpu[f"energy_q{i}_joules"] for i in range(1, 6)) == pytest.approx(gpu["total_energy_joules"])
    assert gpu["energy_rate_ratio_h2_h1"] == pytest.approx(1.0, abs=0.02)
    assert gpu["vram_ratio_q4_q2"] == pytest.approx(1.0)
    assert gpu["avg_container_cpu_pct"] is None


def test_phases_add_up_to_the_task(exported: Export) -> None:
    found = record(exported, "plain")
    phases = found["phases"]["by_phase"]
    assert sum(one["joules"] or 0.0 for one in phases.values()) == pytest.approx(found["measurement"]["joules"])
    assert sum(one["seconds"] or 0.0 for one in phases.values()) == pytest.approx(6.375)
    assert phases["tool_wait"]["seconds"] == pytest.approx(6.375 / 4)
    assert phases["prefill"]["seconds"] == pytest.approx(6.375 / 8)
    assert (phases["load"]["joules"], phases["load"]["notes"]) == (None, ["not_reported"])
    assert found["phases"]["scale"] == pytest.approx(1.0)
    assert record(exported, "only/in:store")["phases"]["by_phase"] is None


def test_shares_of_overlapping_tasks_add_up_to_the_counter(exported: Export) -> None:
    a, b = record(exported, "together a")["attribution"], record(exported, "together b")["attribution"]
    over_both = sum(joules(gpu, START + 90, START + 99) for gpu in range(2))
    assert a["attributed"] + b["attributed"] == pytest.approx(over_both, rel=0.01)
    assert [a["overlap_fraction"], b["overlap_fraction"]] == pytest.approx([0.5, 0.5])
    for one in (a, b):
        assert one["lower"] < one["attributed"] < one["upper"]
        assert one["method"] != "exclusive"
    alone = record(exported, "plain")
    assert alone["attribution"]["method"] == "exclusive"
    assert alone["attribution"]["attributed"] == alone["measurement"]["joules"]


def test_confidence_and_tool_outcomes(exported: Export) -> None:
    row = rows(exported)["=cmd()"]
    assert [row["min_tool_confidence"], row["max_tool_confidence"], row["avg_tool_confidence"]] == pytest.approx(
        [0.4, 0.99, 0.695]
    )
    assert (row["tool_calls_with_confidence"], row["total_tool_calls"]) == (2, 3)
    assert (row["tool_calls_ok"], row["tool_calls_undeclared"], row["tool_calls_tool_error"], row["tool_calls_malformed"]) == (
        1,
        1,
        1,
        0,
    )
    assert rows(exported)["short"]["min_tool_confidence"] is None
    errors = record(exported, "=cmd()")["computed_metrics"]["error_summary"]
    assert errors["errors_by_source"]["Tool"]["count"] == 2


def test_raw_events_are_flat_with_type_and_time_first(exported: Export) -> None:
    found = record(exported, "plain")["raw_events"]
    assert [list(event)[:2] for event in found] == [["event_type", "timestamp"]] * len(found)
    assert found[0]["event_type"] == "TASK_START"
    assert found[-1]["event_type"] == "TASK_END"


def test_the_run_has_a_file_of_its_own(exported: Export) -> None:
    run = json.loads((exported.csv_path.parent / "run.json").read_text(encoding="utf-8"))
    assert (run["run_id"], run["models"], run["suites"], run["workers"]) == (RUN, ["qwen3:8b"], ["demo"], ["w1", "w2"])
    assert run["totals"]["tasks_by_status"] == {"failure": 1, "success": 7, "unfinished": 1, "unknown": 1}
    assert (run["totals"]["tasks_with_joules"], run["totals"]["joules"]) == (9, None), "one task never ended"
    assert run["notes"] == exported.notes
    assert [gpu["uuid"] for gpu in run["gpus"]] == ["GPU-aaaa", "GPU-bbbb"]
    for index, gpu in enumerate(run["gpus"]):
        (balance,) = gpu["balances"]
        assert balance["tasks"] == 9
        truth = joules(index, START + 10.037, START + 99.0)
        assert balance["joules"] == pytest.approx(truth - 25 * index, rel=0.01), "a reset loses what was spent around it"
        assert balance["residual"] == pytest.approx(0.0, abs=1e-6)
    assert exported.residual is not None
    assert exported.residual[0] < 1e-6
    shares = [record(exported, task_id)["attribution"]["attributed"] for task_id in rows(exported) if task_id != "never ended"]
    between = sum(gpu["balances"][0]["unattributed"] + gpu["balances"][0]["shared_idle"] for gpu in run["gpus"])
    assert sum(shares) + between == pytest.approx(exported.residual[1], rel=1e-3), "and so do the rows that a user reads"


def test_calls_and_their_energy(exported: Export) -> None:
    found = record(exported, "plain")
    first, second = found["calls"]
    assert (first["call"], first["prompt_tokens"], first["completion_tokens"], first["ttft_seconds"]) == (
        1,
        600,
        75,
        pytest.approx(6.375 / 16),
    )
    assert first["energy_source"] == "prometheus"
    assert first["joules"] == pytest.approx(400 * 6.375 / 4, rel=0.05)
    assert first["low_joules"] <= 400 * 6.375 / 4 <= first["high_joules"]
    efficiency = found["efficiency"]
    assert efficiency["joules_per_call"] == pytest.approx((first["joules"] + second["joules"]) / 2)
    assert efficiency["joules_per_decode_token"] == pytest.approx(400 * 6.375 * 3 / 8 / 148, rel=0.05)
    assert (efficiency["prompt_token_basis"], efficiency["prompt_tokens"]) == ("effective", 1200)
    shared = record(exported, "together a")["efficiency"]
    assert (shared["joules_per_call"], shared["joules_per_decode_token"], shared["reason"]) == (None, None, "overlap")


def test_the_table_is_what_it_was(exported: Export, golden: Golden) -> None:
    golden("results/run-1.csv", exported.csv_path.read_text(encoding="utf-8"))


def test_exporting_again_changes_nothing(exported: Export, url: str, runs_dir: Path) -> None:
    before = exported.csv_path.read_bytes()
    again = export(Options(RUN, runs_dir, chunk=37.0), PrometheusApi(url), Later())
    assert again.csv_path.read_bytes() == before
    assert sorted(path.name for path in again.csv_path.parent.iterdir()) == sorted(
        ["journal-w1.jsonl", "journal-w2.jsonl", "results.csv", "run.json", *(path.name for path in exported.json_paths)]
    )


def test_without_a_journal_the_totals_still_stand(exported: Export, url: str, tmp_path: Path) -> None:
    result = export(Options(RUN, tmp_path), PrometheusApi(url), Later())
    assert sorted(rows(result)) == sorted(task.task_id for task in TASKS if task.in_store)
    row, full = rows(result)["plain"], rows(exported)["plain"]
    same = (
        "total_energy_joules",
        "total_tokens",
        "tokens_per_second",
        "avg_ttft_ms",
        "min_tool_confidence",
        "success",
        "start_time",
    )
    assert {name: row[name] for name in same} == pytest.approx({name: full[name] for name in same})
    assert row["min_ttft_ms"] is None
    assert "no journal" in result.notes[0]


def test_without_prometheus_the_journal_still_stands(runs_dir: Path, tmp_path: Path) -> None:
    result = export(Options(RUN, runs_dir, out=tmp_path), None, Later())
    row = rows(result)["plain"]
    assert (row["success"], row["total_tokens"], row["total_energy_joules"]) == (True, 1350, None)
    assert (row["quality"], row["reasons"]) == ("missing", "prometheus_not_asked")


def test_a_prometheus_that_is_down_is_a_note(runs_dir: Path, tmp_path: Path) -> None:
    api = PrometheusApi("http://127.0.0.1:9", patience=0.0)
    result = export(Options(RUN, runs_dir, out=tmp_path), api, Later())
    assert rows(result)["plain"]["reasons"] == "prometheus_failed"
    assert any("Prometheus failed" in note for note in result.notes)


def answer(task: scenario.Planned, joules_0: float, *, source: str = "nvml") -> dict[str, Any]:
    assert task.end is not None
    exact = [joules_0, joules(1, START + task.start, START + task.end)]
    gpus = [
        {**gpu, "joules": j, "low": j - 5, "high": j + 5, "method": "counter", "samples": 60, "quality": "ok", "reasons": []}
        for gpu, j in zip(GPUS, exact, strict=True)
    ]
    head = {"event_type": "TASK_ENERGY", "timestamp": START + task.end + 0.2, "run_id": RUN, "task_id": task.task_id}
    return {**head, "worker": task.worker, "source": source, "gpus": gpus, "total": {}}


def test_the_exporters_answer_is_preferred_and_checked(url: str, tmp_path: Path) -> None:
    by_id = {task.task_id: task for task in TASKS}
    good, bad = by_id["plain"], by_id["=cmd()"]
    exact = joules(0, START + good.start, START + 16.412)
    scenario.write_journals(tmp_path, energy=[answer(good, exact), answer(bad, 2000.0)])
    result = export(Options(RUN, tmp_path), PrometheusApi(url), Later())
    row = rows(result)["plain"]
    assert row["total_energy_joules"] == pytest.approx(truth("plain"), abs=1e-6)
    assert (row["energy_source"], row["energy_exporter_joules"]) == ("exporter", row["total_energy_joules"])
    assert row["energy_prometheus_joules"] == pytest.approx(truth("plain"), rel=0.01)
    assert "energy_disagreement" not in row["reasons"]
    lying = rows(result)["=cmd()"]
    assert (lying["quality"], lying["reasons"]) == ("suspect", "energy_disagreement")
    assert lying["total_energy_joules"] == pytest.approx(2400.0)


def test_the_exporters_throttled_seconds_are_preferred_and_checked(url: str, tmp_path: Path) -> None:
    plain, lying = (next(task for task in TASKS if task.task_id == name) for name in ("plain", "=cmd()"))
    answers = [answer(task, joules(0, START + task.start, START + (task.end or 0.0))) for task in (plain, lying)]
    for told, hot in zip(answers, (0.93, 2.5), strict=True):
        for gpu in told["gpus"]:
            gpu["throttled_seconds"] = dict.fromkeys(THROTTLE_REASONS, 0.0)
        told["gpus"][0]["throttled_seconds"]["hw_thermal"] = hot
    scenario.write_journals(tmp_path, energy=answers)
    result = export(Options(RUN, tmp_path), PrometheusApi(url), Later())
    row, section = rows(result)["plain"], record(result, "plain")["throttle"]
    assert (row["throttled_seconds"], row["throttled_hw_thermal_seconds"], row["throttled_source"]) == (0.93, 0.93, "exporter")
    assert (row["throttled_sw_thermal_seconds"], row["reasons"]) == (0.0, "throttled")
    assert section["throttled_seconds_prometheus"] == pytest.approx(1.0)
    assert section["disagreements"] == []
    per_gpu = record(result, "plain")["per_gpu"]
    assert [gpu["throttle_seconds_by_reason"]["hw_thermal"] for gpu in per_gpu] == [0.93, 0.0]
    assert {source for gpu in per_gpu for source in gpu["throttle_sources"].values()} == {"exporter"}
    odd = rows(result)["=cmd()"]
    assert (odd["throttled_seconds"], odd["quality"]) == (2.5, "suspect")
    assert odd["reasons"] == "throttled;throttle_disagreement"
    (apart,) = record(result, "=cmd()")["throttle"]["disagreements"]
    assert (apart["reason"], apart["exporter"], apart["prometheus"]) == ("hw_thermal", 2.5, 0.0)
    other = rows(result)["reset"]
    assert (other["throttled_seconds"], other["throttled_source"]) == (0.0, "prometheus")


def idle_event(label: str, at: float, watts_0: float, worker: str = "w1") -> dict[str, Any]:
    rows = [
        {**gpu, "watts": w, "low": w - 2, "high": w + 2, "quality": "ok"} for gpu, w in zip(GPUS, (watts_0, 99.0), strict=True)
    ]
    head = {"event_type": "IDLE_POWER", "timestamp": START + at, "run_id": RUN, "worker": worker, "source": "nvml"}
    return {**head, "label": label, "start": START + at - 3, "end": START + at, "gpus": rows}


def test_idle_power_is_a_floor_under_every_task(url: str, tmp_path: Path) -> None:
    idle = [idle_event("before", 8.0, 60.0), idle_event("before", 12.0, 1.0), idle_event("after", 110.0, 75.0)]
    scenario.write_journals(tmp_path, energy=idle)
    result = export(Options(RUN, tmp_path), PrometheusApi(url), Later())
    row = rows(result)["plain"]
    assert (row["idle_power_w"], row["idle_energy_joules"]) == (pytest.approx(159.0), pytest.approx(159.0 * 6.375))
    assert row["active_energy_joules"] == pytest.approx(row["total_energy_joules"] - 159.0 * 6.375)
    run = json.loads((tmp_path / RUN / "run.json").read_text(encoding="utf-8"))
    measured = run["gpus"][0]["idle"]
    assert (measured["watts"], measured["spread_watts"]) == (60.0, 15.0)
    assert [one["label"] for one in measured["measurements"]] == ["before", "after"], "not the one while a task was under way"
    assert any("GPU-aaaa was not steady (before 60.0 W, after 75.0 W)" in note for note in result.notes)
    overlapped = record(result, "together a")["attribution"]
    assert overlapped["fully_loaded"] > overlapped["attributed"] > overlapped["lower"]
    assert run["gpus"][0]["balances"][0]["shared_idle"] == pytest.approx(60.0 * 3, rel=0.01)


def test_less_than_idle_is_impossible(url: str, tmp_path: Path) -> None:
    scenario.write_journals(tmp_path, energy=[idle_event("before", 8.0, 500.0)])
    result = export(Options(RUN, tmp_path), PrometheusApi(url), Later())
    row = rows(result)["only in journal"]
    assert (row["quality"], row["reasons"], row["active_energy_joules"]) == ("suspect", "below_idle", None)
    assert row["idle_energy_joules"] == pytest.approx(599.0 * 2.5)


def call_answer(task: scenario.Planned, call: int, joules_: float | None) -> dict[str, Any]:
    head = {"event_type": "CALL_ENERGY", "timestamp": START + 100, "run_id": RUN, "task_id": task.task_id, "worker": task.worker}
    bounds = {"joules": joules_, "low": joules_ and joules_ - 5, "high": joules_ and joules_ + 5}
    return {**head, "call": call, "source": "nvml", "gpus": [], "total": {**bounds, "quality": "short", "reasons": ["short"]}}


def test_the_exporters_joules_of_calls_are_preferred_and_cannot_exceed_the_task(url: str, tmp_path: Path) -> None:
    by_id = {task.task_id: task for task in TASKS}
    plain, odd = by_id["plain"], by_id["=cmd()"]
    answers = [call_answer(plain, 1, 640.0), call_answer(plain, 2, None), call_answer(odd, 1, 900.0), call_answer(odd, 2, 900.0)]
    scenario.write_journals(tmp_path, energy=answers)
    result = export(Options(RUN, tmp_path), PrometheusApi(url), Later())
    first, second = record(result, "plain")["calls"]
    assert (first["joules"], first["energy_source"], first["reasons"]) == (640.0, "exporter", ["short"])
    assert (second["energy_source"], second["joules"]) == ("prometheus", pytest.approx(637.5, rel=0.05))
    assert rows(result)["=cmd()"]["reasons"] == "calls_exceed_task"
    assert rows(result)["plain"]["reasons"] == "throttled"


def test_simulated_energy_is_marked_also_without_prometheus(tmp_path: Path) -> None:
    plain = TASKS[0]
    scenario.write_journals(tmp_path, [plain], [answer(plain, 1900.0, source="simulated")])
    row = rows(export(Options(RUN, tmp_path), None, Later()))["plain"]
    assert (row["energy_simulated"], row["gpu_source"], row["energy_source"]) == (True, "simulated", "exporter")
    assert row["total_energy_joules"] == pytest.approx(2537.5)
    assert row["avg_power_w"] == pytest.approx(2537.5 / 6.375)


def test_an_unknown_run_names_the_known_ones(url: str, runs_dir: Path) -> None:
    with pytest.raises(UserError, match=f"no run 'run-2'.*{RUN}"):
        export(Options("run-2", runs_dir), None, Later())
    with pytest.raises(UserError, match=f"no run 'run-2'.*{RUN}"):
        export(Options("run-2", runs_dir / "none"), PrometheusApi(url), Later())
    with pytest.raises(UserError, match="not a run id"):
        export(Options("../run-1", runs_dir), None, Later())
