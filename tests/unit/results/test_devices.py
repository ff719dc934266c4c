"""The devices of a task in its result: by the exporters' answer, by what the run declared, or as an assumption that is said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from joulebench.devices import DeviceName
from joulebench.errors import UserError
from joulebench.results.export import Export, Options, export
from joulebench.results.journal import load_journals
from joulebench.results.merge import merge_sources

T0 = 1_700_000_000.0


def gpu(uuid: str, joules: float | None, host: str = "a:18347", **more: object) -> dict[str, object]:
    quality = "ok" if joules is not None else "missing"
    row = {"gpu": uuid[-1], "uuid": uuid, "method": "counter", "samples": 50, "joules": joules, "low": joules, "high": joules}
    return {**row, "quality": quality, "reasons": [], "throttled_seconds": {}, "host": host, **more}


def write_run(directory: Path, answer: Mapping[str, object], calls: Sequence[Mapping[str, object]] = (), **run: object) -> None:
    journal = directory / "run-1/journal-w1.jsonl"
    journal.parent.mkdir(parents=True)
    common = {"run_id": "run-1", "worker": "w1"}
    events: list[dict[str, object]] = [
        {"event_type": "RUN_START", "timestamp": T0, "model_name": "m", "suite": "s", **run},
        {"event_type": "TASK_START", "timestamp": T0 + 1, "task_id": "t", "task_name": "t"},
        {"event_type": "TASK_END", "timestamp": T0 + 11, "task_id": "t", "status": "success", "success": True},
    ]
    ends = [{"event_type": "LLM_QUERY_END", "timestamp": T0 + 5, "task_id": "t", "status": "success", **call} for call in calls]
    events += ends
    if answer:
        window = {"event_type": "TASK_ENERGY", "timestamp": T0 + 12, "task_id": "t", "start": T0 + 1, "end": T0 + 11}
        events.append({**window, "source": "nvml", "total": {}, **answer})
    journal.write_text("".join(json.dumps({**common, **event}) + "\n" for event in events), encoding="utf-8")


def exported(
    directory: Path, answer: Mapping[str, object], calls: Sequence[Mapping[str, object]] = (), **run: object
) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """(row, section measurement)"""
    write_run(directory, answer, calls, **run)
    result: Export = export(Options("run-1", directory), None)
    return result.rows[0], json.loads(result.json_paths[0].read_text(encoding="utf-8"))["measurement"]


def test_the_devices_of_two_hosts_are_in_the_result_with_their_basis(tmp_path: Path) -> None:
    answer = {"basis": "declared", "gpus": [gpu("GPU-a0", 100.0), gpu("GPU-b0", 50.0, "b:18347")]}
    row, measurement = exported(tmp_path, answer)
    assert (row["total_energy_joules"], row["quality"], row["device_basis"]) == (150.0, "ok", "declared")
    assert row["devices"] == "a:18347/GPU-a0 b:18347/GPU-b0"
    known = {name: value for name, value in measurement["devices"][1].items() if value is not None}
    assert known == {"host": "b:18347", "gpu": "0", "uuid": "GPU-b0"}
    assert (measurement["joules_by_role"], row["decode_devices_energy_joules"]) == ({}, None)


def test_joules_by_role_are_those_of_its_devices(tmp_path: Path) -> None:
    prefill, *decode = (
        gpu("GPU-a0", 100.0, role="prefill"),
        gpu("GPU-b0", 50.0, role="decode"),
        gpu("GPU-b1", 7.0, role="decode"),
    )
    row, measurement = exported(tmp_path, {"basis": "declared", "gpus": [prefill, *decode]})
    assert measurement["joules_by_role"] == {"prefill": 100.0, "decode": 57.0}
    assert (row["prefill_devices_energy_joules"], row["decode_devices_energy_joules"]) == (100.0, 57.0)
    decode[0] = gpu("GPU-b0", None, role="decode")
    _, measurement = exported(tmp_path / "unknown", {"basis": "declared", "gpus": [prefill, *decode]})
    assert measurement["joules_by_role"] == {"prefill": 100.0, "decode": None}
    answer = {"basis": "declared", "gpus": [prefill], "missing_hosts": ["b:18347"]}
    _, measurement = exported(tmp_path / "missing", answer)
    assert measurement["joules_by_role"] == {"prefill": None}


def test_the_clock_offset_of_a_host_is_in_the_result(tmp_path: Path) -> None:
    off = gpu("GPU-b0", 50.0, clock_offset_seconds=3.0, clock_uncertainty_seconds=0.001)
    row, measurement = exported(tmp_path, {"basis": "declared", "gpus": [off]})
    assert row["total_energy_joules"] == 50.0
    (device,) = measurement["devices"]
    assert (device["clock_offset_seconds"], device["clock_uncertainty_seconds"]) == (3.0, 0.001)


def test_a_host_that_did_not_answer_makes_the_total_unknown_and_is_named(tmp_path: Path) -> None:
    answer = {"basis": "declared", "gpus": [gpu("GPU-a0", 100.0)], "missing_hosts": ["b:18347"]}
    row, measurement = exported(tmp_path, answer)
    assert (row["total_energy_joules"], row["energy_high_joules"], row["quality"]) == (None, None, "missing")
    assert "host_missing" in row["reasons"]
    assert row["energy_low_joules"] == 100.0
    assert measurement["missing_hosts"] == ["b:18347"]


def test_a_shared_device_keeps_its_part_and_says_so(tmp_path: Path) -> None:
    part = gpu("GPU-a0", 75.0, low=0.0, high=101.0, quality="suspect", reasons=["gpu_shared"], share=0.75)
    row, measurement = exported(tmp_path, {"basis": "observed", "gpus": [part]})
    assert (row["total_energy_joules"], row["energy_low_joules"], row["energy_high_joules"]) == (75.0, 0.0, 101.0)
    assert (row["quality"], row["device_basis"]) == ("suspect", "observed")
    assert "gpu_shared" in row["reasons"]
    assert measurement["devices"][0]["share"] == 0.75


def test_a_mig_instance_keeps_its_estimate_and_names_its_gpu(tmp_path: Path) -> None:
    part = gpu("MIG-3g", 43.0, low=0.0, high=101.0, quality="suspect", reasons=["mig_estimated"], share=3 / 7, parent="GPU-a0")
    row, measurement = exported(tmp_path, {"basis": "declared", "gpus": [part]})
    assert (row["total_energy_joules"], row["energy_low_joules"], row["energy_high_joules"]) == (43.0, 0.0, 101.0)
    assert (row["quality"], row["devices"], measurement["devices"][0]["parent"]) == ("suspect", "a:18347/MIG-3g", "GPU-a0")
    assert "mig_estimated" in row["reasons"]


def test_an_answer_of_an_earlier_exporter_was_for_all_of_its_devices(tmp_path: Path) -> None:
    row, _ = exported(tmp_path, {"gpus": [gpu("GPU-a0", 100.0)]})
    assert row["device_basis"] == "assumed"


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    write_run(tmp_path, {}, devices={"gpus": ["GPU-a0", "b:1"], "server": None, "job": None})
    return tmp_path


def test_what_a_run_declared_is_read_from_its_journal(declared: Path) -> None:
    (task,) = merge_sources(load_journals(declared / "run-1"), {})
    assert task.declared_devices == (DeviceName(None, "GPU-a0"), DeviceName("b", "1"))


@pytest.mark.parametrize("devices", [None, "GPU-a0", {"gpus": "GPU-a0"}, {"gpus": [7, "not a gpu"]}])
def test_what_is_no_name_of_a_device_declares_none(tmp_path: Path, devices: object) -> None:
    write_run(tmp_path, {}, devices=devices)
    (task,) = merge_sources(load_journals(tmp_path / "run-1"), {})
    assert task.declared_devices == ()


def test_devices_given_to_the_export_that_nothing_is_stored_of_are_refused(declared: Path) -> None:
    with pytest.raises(UserError, match=r"^--gpus: GPU-zz matches no GPU; there are: none"):
        export(Options("run-1", declared, devices=(DeviceName(None, "GPU-zz"),)), None)


@pytest.mark.parametrize(
    ("bounds", "ratio"), [({"low": 90.0, "high": 115.0}, 0.25), ({"low": 90.0, "high": None}, None), ({"joules": None}, None)]
)
def test_a_row_says_how_far_apart_its_bounds_are(tmp_path: Path, bounds: dict[str, float | None], ratio: float | None) -> None:
    row, _ = exported(tmp_path, {"basis": "declared", "gpus": [{**gpu("GPU-a0", 100.0), **bounds}]})
    assert row["energy_bounds_ratio"] == ratio


def test_a_model_that_another_host_runs_has_no_joules_of_the_idle_card_here(tmp_path: Path) -> None:
    answer = {"basis": "assumed", "gpus": [gpu("GPU-a0", 100.0)]}
    away = {"remote_host": "https://ollama.com:443"}
    row, measurement = exported(tmp_path / "away", answer, [{"call": 1, **away}, {"call": 2, **away}])
    assert (row["total_energy_joules"], row["quality"]) == (None, "missing")
    assert measurement["reasons"] == ["remote_model"]
    # With a call that was answered here, the card was used.
    row, _ = exported(tmp_path / "both", answer, [{"call": 1, **away}, {"call": 2, "remote_host": None}])
    assert row["total_energy_joules"] == 100.0
