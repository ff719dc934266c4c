"""Every NVML capture through the real readers and collectors, against a golden /metrics of its own.

A capture whose golden is missing fails; ``pytest tests/captures --update-goldens`` writes it, and it is to be read before it is
committed. The replay itself is held against the recorder: a recording of the replay says what the capture says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from joulebench import metrics
from joulebench.energy.window import WindowEnergy
from joulebench.exporter.exposition import Exposition
from joulebench.exporter.gpu_collector import gpu_collectors
from joulebench.gpu.capture import capture_json, record_capture
from joulebench.gpu.monitor import GpuMonitor
from joulebench.gpu.nvml import NvmlLibrary, NvmlSource
from joulebench.gpu.reading import GpuState
from tests.captures.nvml import synthesize
from tests.fakes.nvml import SCRIPT_VARIABLE, FakeGpuScript, VirtualClock, load, replay
from tests.goldens_support import GOLDENS, Golden
from tests.unit.exporter.exposition_lint import complaints

CAPTURES = sorted((Path(__file__).parent / "nvml").glob("*.json"))
POLL, SECONDS = 0.02, 12.0
POLLED = (
    metrics.METER_POLLS,
    metrics.GPU_ENERGY,
    metrics.GPU_ENERGY_SAMPLE_TIMESTAMP,
    metrics.GPU_ENERGY_SAMPLE_UNCERTAINTY,
    metrics.GPU_ENERGY_STEP,
    metrics.GPU_ENERGY_CROSSCHECK,
    metrics.GPU_POWER,
)
"""Families whose values depend on when the sensor looks: a golden shows which of their series there are."""

each_capture = pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)


@contextmanager
def playing(path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[VirtualClock, FakeGpuScript]]:
    load()
    recorded = replay.read(path)
    clock = VirtualClock(directory / "clock")
    script = FakeGpuScript(replay.gpus_of(recorded), driver=recorded["driver"], clock=clock)
    monkeypatch.setenv(SCRIPT_VARIABLE, str(script.write(directory / "script")))
    yield clock, script


@dataclass
class Shown:
    text: str
    state: GpuState
    joules: float
    """What the card really used between two of its counter changes, and what the window over them says."""
    measured: WindowEnergy


def shown(path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Shown:
    with playing(path, directory, monkeypatch) as (clock, script):
        source = NvmlSource()
        monitor = GpuMonitor(source, clock, poll_period=POLL)
        for poll in range(int(SECONDS / POLL)):
            monitor.poll()
            if poll % int(1 / POLL) == 0:
                monitor.poll_state()
            clock.advance(POLL)
        text = Exposition(gpu_collectors(monitor), clock, process=False).render()[0].decode()
        start, end = script.origin_unix + 2.0, script.origin_unix + 8.0
        measured = monitor.window(start, end)[0][1]
        state = monitor.snapshot()[0]
        source.close()
    return Shown(text, state, script.joules(0, start, end) * script.gpus[0].counter_gain, measured)


def answers_of(text: str) -> str:
    """Without help, which another golden holds, and without numbers that depend on the moment of a poll."""
    kept = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("# HELP"))
    return re.sub(rf"^((?:{'|'.join(metric.name for metric in POLLED)})\{{.*\}}) .*$", r"\1 *", kept, flags=re.MULTILINE)


@each_capture
def test_the_exporter_shows_of_a_captured_machine_what_its_golden_says(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden: Golden
) -> None:
    text = shown(path, tmp_path, monkeypatch).text
    assert list(complaints(text)) == []
    golden(f"exposition/capture_{path.stem}.prom", answers_of(text))


@each_capture
def test_what_moves_on_a_captured_machine_is_measured_right(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    energy = replay.read(path)["gpus"][0]["energy"]
    seen = shown(path, tmp_path, monkeypatch)
    assert seen.state.up
    assert seen.state.power is not None
    assert not any(seen.state.read_errors.values())
    assert seen.measured.joules == pytest.approx(seen.joules, rel=0.02 if energy["changes"] else 0.1)
    assert (seen.state.energy_method == "counter") == bool(energy["changes"])
    if energy["changes"]:
        assert seen.state.energy_step == pytest.approx(energy["step_seconds"]["median"], abs=0.002)
        assert seen.state.energy_crosscheck == pytest.approx(energy["ratio"], abs=0.05)
        assert seen.state.energy_uncertainty is not None
        assert seen.state.energy_uncertainty <= POLL


@each_capture
def test_a_recording_of_the_replay_says_what_the_capture_says(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with playing(path, tmp_path, monkeypatch) as (clock, _):
        library = NvmlLibrary()
        again = json.loads(capture_json(record_capture(library, clock, clock.advance, 3.0, keep_uuid=True)))
        library.close()
    recorded = replay.read(path)
    taken = [gpu for gpu in recorded["gpus"] if gpu["error"] is None]
    for old, new in zip(taken, again["gpus"], strict=True):
        assert (new["name"], new["uuid"]) == (old["name"], old["uuid"])
        assert [said(call, "function") for call in new["calls"]] == [said(call, "function") for call in old["calls"]]
        assert [said(field, "field") for field in new["fields"]] == [said(field, "field") for field in old["fields"]]
        step = old["energy"]["step_seconds"]
        assert (step is None) == (new["energy"]["step_seconds"] is None)
        assert step is None or new["energy"]["step_seconds"]["median"] == pytest.approx(step["median"], abs=0.005)


def said(answer: Mapping[str, Any], key: str) -> tuple[object, ...]:
    """Without cost, and without the value of what moves by itself."""
    value = None if answer[key] in replay.MOVING else answer.get("answer", answer.get("value"))
    return (answer[key], answer.get("arguments"), answer["code"], value)


@each_capture
def test_a_capture_is_of_a_known_format_and_says_where_it_comes_from(path: Path) -> None:
    recorded = replay.read(path)
    assert recorded["origin"] in ("recorded", "synthetic")
    assert (recorded["recorded_at"] is None) == (recorded["origin"] == "synthetic")
    assert all(gpu["uuid"] is None or gpu["uuid"].startswith("GPU-masked-") for gpu in recorded["gpus"])


def test_no_golden_is_left_of_a_capture_that_is_gone() -> None:
    goldens = {path.stem.removeprefix("capture_") for path in (GOLDENS / "exposition").glob("capture_*.prom")}
    assert goldens <= {path.stem for path in CAPTURES}


def test_the_synthetic_captures_are_what_their_profiles_give() -> None:
    """A change of recorder, format or profiles: ``python -m tests.captures.nvml.synthesize`` writes them anew."""
    committed = {path.name: path.read_text(encoding="utf-8") for path in CAPTURES if replay.read(path)["origin"] == "synthetic"}
    assert committed == synthesize.captures()


def test_a_file_of_another_format_is_not_played(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"format": "joulebench-capture", "version": 2}', encoding="utf-8")
    with pytest.raises(ValueError, match="version 1"):
        replay.read(other)
