"""Every NVML capture through the real readers and collectors, against a golden of its own.

A capture whose golden is missing fails; ``pytest tests/captures --update-goldens`` writes it, and it is to be read before it is
committed. The replay itself is held against the recorder: a recording of the replay says what the capture says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from joulebench.gpu.capture import capture_json, record_capture
from joulebench.gpu.nvml import NvmlLibrary
from tests.captures.playing import POLL, captures, play, played, scripted
from tests.fakes.nvml import SCRIPT_VARIABLE, FakeGpu, FakeGpuScript, VirtualClock, fails, field_fails, load, replay
from tests.fakes.nvml.script import ADA, HOPPER, PASCAL, SW_POWER_CAP
from tests.goldens_support import GOLDENS, Golden
from tests.unit.exporter.exposition_lint import complaints

GOLDEN_FOLDER = "captures"

each_capture = pytest.mark.parametrize("name", captures())


@each_capture
def test_the_exporter_shows_of_a_captured_machine_what_its_golden_says(name: str, golden: Golden) -> None:
    assert list(complaints(played(name).text)) == []
    golden(f"{GOLDEN_FOLDER}/{name}.txt", played(name).table())


@each_capture
def test_a_recording_of_the_replay_says_what_the_capture_says(name: str, tmp_path: Path) -> None:
    same_when_recorded_again(captures()[name], tmp_path)


@each_capture
def test_a_capture_is_of_a_known_format_and_says_where_it_comes_from(name: str) -> None:
    capture = captures()[name]
    assert (capture["format"], capture["version"]) == (replay.FORMAT, replay.VERSION)
    assert capture["origin"] in ("recorded", "derived")
    assert (capture["recorded_at"] is None) == (capture["origin"] == "derived")
    assert bool(capture.get("source")) == (capture["origin"] == "derived")
    assert all(gpu["uuid"] is None or gpu["uuid"].startswith("GPU-masked-") for gpu in capture["gpus"])


def test_no_golden_is_left_of_a_capture_that_is_gone() -> None:
    assert {path.name.removesuffix(".txt") for path in (GOLDENS / GOLDEN_FOLDER).iterdir()} == set(captures())


def test_a_file_of_another_format_is_not_played(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"format": "joulebench-capture", "version": 2}', encoding="utf-8")
    with pytest.raises(ValueError, match="version 1"):
        replay.read(other)


# --- a recording whose power moves ------------------------------------------------------------------------------------------

CALLS = ((0.0, 300.0), (0.4, 220.0), (1.6, 80.0), (2.1, 300.0), (2.5, 220.0))
"""(seconds, watts): prefill, decode, a tool that runs on the CPU, prefill, decode."""
RECORDED_SECONDS, PLAYED_SECONDS = 4.0, 12.0


@dataclass(frozen=True)
class Card:
    gpu: FakeGpu
    has_counter: bool = True


CARDS = {
    "counter": Card(FakeGpu(name="Ada", arch=ADA, power=CALLS, limit=320.0, reasons=((0.0, SW_POWER_CAP), (0.3, 0.0)))),
    "margin": Card(FakeGpu(name="Hopper", arch=HOPPER, power=CALLS, limit=320.0, sensor_window=0.025, margin=True, slowdown=87)),
    "no counter": Card(
        FakeGpu(
            name="Pascal",
            arch=PASCAL,
            power=CALLS,
            limit=320.0,
            step=0.02,
            sensor_window=0.01,
            faults=(field_fails(191), field_fails(83), fails("nvmlDeviceGetTotalEnergyConsumption")),
        ),
        has_counter=False,
    ),
}


@pytest.fixture(params=CARDS)
def recorded(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """A capture of a scripted card by the real recorder, read back from its file."""
    load()
    clock = VirtualClock(tmp_path / "clock")
    script = FakeGpuScript([CARDS[request.param].gpu], clock=clock)
    monkeypatch.setenv(SCRIPT_VARIABLE, os.fspath(script.write(tmp_path / "script")))
    library = NvmlLibrary()
    path = tmp_path / "capture.json"
    path.write_text(capture_json(record_capture(library, clock, clock.advance, RECORDED_SECONDS, label="load")), encoding="utf-8")
    library.close()
    return replay.read(path)


def test_what_moves_in_a_recording_is_measured_right_when_it_is_played(recorded: Mapping[str, Any], tmp_path: Path) -> None:
    energy = recorded["gpus"][0]["energy"]
    machine = play(recorded, tmp_path, PLAYED_SECONDS)
    (gpu,), (measured,), (joules,) = machine.gpus, machine.measured, machine.joules
    assert gpu.up
    assert gpu.power is not None
    assert not any(gpu.read_errors.values())
    assert measured.joules == pytest.approx(joules, rel=0.02 if energy["changes"] else 0.1)
    assert (gpu.energy_method == "counter") == bool(energy["changes"])
    if energy["changes"]:
        assert gpu.energy_step == pytest.approx(energy["step_seconds"]["median"], abs=0.002)
        assert gpu.energy_crosscheck == pytest.approx(energy["ratio"], abs=0.05)
        assert gpu.energy_uncertainty is not None
        assert gpu.energy_uncertainty <= POLL


def test_a_recording_of_a_played_recording_says_the_same(recorded: Mapping[str, Any], tmp_path: Path) -> None:
    same_when_recorded_again(recorded, tmp_path)


def same_when_recorded_again(capture: Mapping[str, Any], directory: Path) -> None:
    seconds = 3.0 if any(gpu["energy"] for gpu in capture["gpus"]) else 0.1
    with scripted(capture, directory) as (clock, _):
        library = NvmlLibrary()
        again = json.loads(capture_json(record_capture(library, clock, clock.advance, seconds, keep_uuid=True)))
        library.close()
    for old, new in zip(capture["gpus"], again["gpus"], strict=True):
        assert (new["name"], new["uuid"]) == (old["name"], old["uuid"])
        assert [said(call, "function") for call in new["calls"]] == [said(call, "function") for call in old["calls"]]
        whole_gpu = {said(field, "field") for field in old["fields"] if not field.get("scope")}
        assert {said(field, "field") for field in new["fields"]} == whole_gpu
        step = old["energy"] and old["energy"]["step_seconds"]
        if step is not None:
            assert new["energy"]["step_seconds"]["median"] == pytest.approx(step["median"], abs=0.005)


def said(answer: Mapping[str, Any], key: str) -> tuple[object, ...]:
    """Without cost, and without the value of what moves by itself."""
    value = None if answer[key] in replay.MOVING or answer["code"] else answer.get("answer", answer.get("value"))
    if isinstance(value, Mapping):
        value = tuple(number for name, number in value.items() if name != "version")
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, int) and value >= 1 << 31 and answer[key] == SLOWDOWN_OFFSET:
        value -= 1 << 32
    return (answer[key], tuple(answer.get("arguments") or ()), answer["code"], value)


SLOWDOWN_OFFSET = 194
"""A signed number, which the recorder shows as NVML's 32 bits."""
