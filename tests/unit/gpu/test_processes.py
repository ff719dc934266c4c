"""Who uses a GPU, from the C ABI to the verdict: foreign programs are told, and what cannot be known is never called foreign."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from joulebench.clock import wait_until
from joulebench.gpu.device import process_use
from joulebench.gpu.monitor import GpuMonitor
from joulebench.gpu.processes import EXPECTED_PROGRAMS, ProcessClass, ProcessNames, ProcessPoller, classify_processes, short_name
from joulebench.gpu.reading import NO_PROCESSES
from joulebench.units import Seconds
from tests.fakes.nvml import FakeGpu, Fault, OnCalls, Process, fails, gone
from tests.fakes.proc_tree import ProcTree
from tests.unit.gpu.rig import POLL, Play, Rig

EXPECTED = re.compile(EXPECTED_PROGRAMS, re.IGNORECASE)
UTILIZATION, COMPUTE, NAME = (
    "nvmlDeviceGetProcessUtilization",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlSystemGetProcessName",
)
OLLAMA, GAME, HIDDEN = 4_100_001, 4_100_002, 4_100_003
"""Process ids that no machine has: /proc does not tell of them, the driver does."""
NO_PERMISSION, INSUFFICIENT_SIZE, NO_SYMBOL, UNKNOWN_ERROR = 4, 7, 13, 999
PERIOD = 5.0


def process(pid: int, start: float = 0.0, end: float = float("inf"), sm: float = 40.0) -> Process:
    return Process(pid, start, end, sm, {OLLAMA: "/usr/local/bin/ollama", GAME: "/opt/game/bin/game"}.get(pid, ""))


def watching(rig: Rig, proc: Path | None = None) -> ProcessPoller:
    names = ProcessNames(EXPECTED, rig.source.process_name, proc or Path("/proc"))
    watch = ProcessPoller(rig.source.devices(), names, rig.clock, period=PERIOD, keep_seconds=100.0)
    rig.monitor = GpuMonitor(rig.source, rig.clock, poll_period=POLL, processes=watch)
    return watch


def look_until(rig: Rig, watch: ProcessPoller, until: float) -> None:
    """One look every period, between polls."""
    next_look = rig.now + PERIOD
    while next_look <= until + 1e-9:
        rig.run(next_look)
        watch.poll()
        next_look += PERIOD
    rig.run(until)


def test_a_foreign_program_is_counted_and_taints_the_windows_it_was_seen_in(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    rig = play(FakeGpu(processes=[process(OLLAMA), process(GAME, 6.0, 13.0, 30.0)]), FakeGpu(processes=[process(OLLAMA)]))
    watch = watching(rig)
    look_until(rig, watch, 10.0)
    shared, alone = watch.summary(0), watch.summary(1)
    assert (shared.foreign, shared.unnamed, shared.foreign_sm) == (1, 0, 0.3)
    assert shared.foreign_use_start == pytest.approx(rig.script.origin_unix + 6.0, abs=0.6)
    assert shared.foreign_use == pytest.approx(rig.script.origin_unix + 10.0, abs=0.5)
    assert (alone.foreign, alone.foreign_sm, alone.foreign_use) == (0, 0.0, None)
    look_until(rig, watch, 25.0)
    gone_again = watch.summary(0)
    assert (gone_again.foreign, gone_again.foreign_sm) == (0, 0.0)
    assert gone_again.foreign_use_start == shared.foreign_use_start
    assert gone_again.foreign_use == pytest.approx(rig.script.origin_unix + 13.0, abs=0.5)
    windows = {(1.0, 5.0): False, (4.0, 8.0): True, (8.0, 9.0): True, (12.0, 15.0): True, (14.0, 20.0): False}
    for window, tainted in windows.items():
        found = rig.window(*window)
        assert ("foreign_process" in found.reasons, found.quality) == ((True, "suspect") if tainted else (False, "ok")), window
        assert "foreign_process" not in rig.window(*window, gpu=1).reasons
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [message for message in told if "is used by" in message] == [
        f"GPU 0 is used by game (pid {GAME}), which is no expected program (--processes.known):"
        " the energy of tasks on this GPU includes what it uses"
    ]


@pytest.mark.parametrize(("calls", "seen"), [(2, 1), (8, 1), (12, None)])
def test_samples_that_come_while_they_are_counted_are_asked_for_again(play: Play, calls: int, seen: int | None) -> None:
    crowded = fails(UTILIZATION, OnCalls(2, calls), INSUFFICIENT_SIZE)
    rig = play(FakeGpu(processes=[process(GAME)], faults=[crowded]))
    watch = watching(rig)
    look_until(rig, watch, 5.0)
    assert watch.summary(0).foreign == seen
    look_until(rig, watch, 10.0)
    assert watch.summary(0).foreign == 1


def test_a_process_that_nobody_can_name_is_unknown_and_no_stranger(play: Play) -> None:
    rig = play(FakeGpu(processes=[process(HIDDEN)]))
    watch = watching(rig)
    look_until(rig, watch, 10.0)
    assert watch.summary(0)[:3] == (0, 1, 0.0)
    assert "foreign_process" not in rig.window(1.0, 9.0).reasons


def test_names_that_the_driver_may_not_tell_are_unknown(play: Play) -> None:
    rig = play(FakeGpu(processes=[process(GAME)], faults=[fails(NAME, code=NO_PERMISSION)]))
    watch = watching(rig)
    look_until(rig, watch, 5.0)
    assert watch.summary(0)[:3] == (0, 1, 0.0)


def test_a_program_that_only_holds_memory_does_not_use_the_gpu(play: Play) -> None:
    rig = play(FakeGpu(processes=[process(GAME, sm=0.0)]))
    watch = watching(rig)
    look_until(rig, watch, 5.0)
    assert watch.summary(0)[:5] == (0, 0, None, None, None)


@pytest.mark.parametrize("code", [3, NO_PERMISSION, NO_SYMBOL])
def test_where_use_cannot_be_told_compute_processes_stand_in(play: Play, code: int) -> None:
    rig = play(FakeGpu(processes=[process(OLLAMA), process(GAME, 3.0, 12.0)], faults=[fails(UTILIZATION, code=code)]))
    watch = watching(rig)
    look_until(rig, watch, 20.0)
    assert watch.summary(0)[:3] == (0, 0, None)
    assert "foreign_process" in rig.window(6.0, 8.0).reasons, "it was there at 5 and at 10 s"
    assert "foreign_process" not in rig.window(14.0, 16.0).reasons


@pytest.mark.parametrize(
    "faults",
    [
        (fails(UTILIZATION), fails(COMPUTE)),
        (fails(UTILIZATION, code=NO_PERMISSION), fails(COMPUTE, code=NO_PERMISSION)),
        (fails(UTILIZATION, code=NO_SYMBOL), fails(COMPUTE, code=NO_SYMBOL)),
        (fails(UTILIZATION, code=UNKNOWN_ERROR),),
        (gone(1.0, 9.0),),
    ],
)
def test_a_card_that_tells_nothing_has_no_count_and_no_reason(play: Play, faults: Sequence[Fault]) -> None:
    rig = play(FakeGpu(processes=[process(GAME)], faults=faults))
    watch = watching(rig)
    look_until(rig, watch, 5.0)
    assert watch.summary(0)[:5] == NO_PROCESSES[:5]
    assert "foreign_process" not in rig.window(0.0, 1.0).reasons


def test_the_log_says_once_what_to_do_about_processes_of_another_container(
    play: Play, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The driver names process ids of the host, which a container without them cannot look up."""
    ProcTree(tmp_path).process(1, 0)
    rig = play(FakeGpu(processes=[Process(4_200_001, 0.0, float("inf"), 60.0, "")]))
    names = ProcessNames(re.compile(EXPECTED_PROGRAMS, re.IGNORECASE), lambda _: None, tmp_path)
    poller = ProcessPoller(rig.source.devices(), names, rig.clock, period=5.0, keep_seconds=100.0, proc=tmp_path)
    poller.poll()
    assert "process ids" not in caplog.text, "it may just have ended"
    for _ in range(3):
        poller.poll()
    assert caplog.text.count("'pid: host' in Compose, 'hostPID: true' in Kubernetes") == 1


def test_a_look_that_is_too_old_is_none(play: Play) -> None:
    rig = play(FakeGpu(processes=[process(GAME)]))
    watch = watching(rig)
    look_until(rig, watch, 5.0)
    rig.clock.advance(2 * PERIOD)
    assert watch.summary(0).foreign == 1
    rig.clock.advance(2 * PERIOD)
    assert watch.summary(0) == NO_PROCESSES


def test_a_clock_that_is_set_back_does_not_blind_the_watch(play: Play) -> None:
    rig = play(FakeGpu(processes=[process(GAME)]))
    watch = watching(rig)
    look_until(rig, watch, 5.0)
    rig.clock.step_wall(-3600.0)
    look_until(rig, watch, 20.0)
    assert watch.summary(0).foreign == 1


def test_the_thread_looks_by_itself_and_ends(play: Play) -> None:
    rig = play(FakeGpu(processes=[process(GAME, -10.0)]))
    watch = watching(rig)
    watch.start()
    assert wait_until(lambda: watch.summary(0).foreign == 1, 30.0)
    watch.stop()
    assert not any(thread.name == "joulebench-gpu-processes" for thread in threading.enumerate())


# --- names -------------------------------------------------------------------------------------------------------------


def invented_proc(directory: Path, *processes: tuple[int, int, str]) -> Path:
    """(pid, parent, command line with spaces between its words)."""
    for pid, parent, command in processes:
        place = directory / str(pid)
        place.mkdir()
        (place / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in command.split()))
        (place / "comm").write_text("comm\n")
        (place / "stat").write_text(f"{pid} (a) b) S {parent} {'0 ' * 17}5000 0")
    return directory


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("/usr/local/bin/ollama runner --model x", ProcessClass.EXPECTED),
        ("/opt/llama.cpp/build/bin/llama-server -m x.gguf", ProcessClass.EXPECTED),
        ("/usr/bin/python3 -m vllm.entrypoints.openai.api_server", ProcessClass.EXPECTED),
        ("/venv/bin/python3.11 /venv/bin/vllm serve", ProcessClass.EXPECTED),
        ("VLLM::EngineCore", ProcessClass.EXPECTED),
        ("ray::RayWorkerWrapper.execute_method", ProcessClass.EXPECTED),
        ("EngineCore_DP0", ProcessClass.EXPECTED),
        ("ray::IDLE", ProcessClass.FOREIGN),
        ("ray::train_step", ProcessClass.FOREIGN),
        ("python -m sglang.launch_server", ProcessClass.EXPECTED),
        ("text-generation-launcher --model-id x", ProcessClass.EXPECTED),
        ("/venv/bin/python /venv/bin/joulebench run", ProcessClass.EXPECTED),
        ("/usr/bin/python3 train.py --data ollama.json", ProcessClass.FOREIGN),
        ("/home/me/ollama-tests/game", ProcessClass.FOREIGN),
        ("/usr/bin/blender -b scene.blend", ProcessClass.FOREIGN),
        ("python -c import", ProcessClass.FOREIGN),
    ],
)
def test_a_program_is_judged_by_its_name_and_not_by_its_arguments(tmp_path: Path, command: str, kind: ProcessClass) -> None:
    assert ProcessNames(EXPECTED, proc=invented_proc(tmp_path, (50, 1, command))).classify(50)[0] is kind


def test_helpers_of_a_server_are_known_by_their_parents(tmp_path: Path) -> None:
    spawned = "/usr/bin/python3 -c from_multiprocessing_spawn"
    proc = invented_proc(tmp_path, (50, 1, "/usr/bin/vllm serve"), (51, 50, spawned), (52, 51, spawned), (60, 59, spawned))
    names = ProcessNames(EXPECTED, proc=proc)
    assert [names.classify(pid)[0] for pid in (51, 52, 60)] == [
        ProcessClass.EXPECTED,
        ProcessClass.EXPECTED,
        ProcessClass.FOREIGN,
    ]


def test_a_process_of_no_command_line_goes_by_the_name_of_its_kernel(tmp_path: Path) -> None:
    assert ProcessNames(EXPECTED, proc=invented_proc(tmp_path, (50, 1, ""))).name(50) == "comm"
    assert ProcessNames(EXPECTED, proc=tmp_path).name(51) is None
    assert ProcessNames(EXPECTED, lambda _: "/usr/bin/other", proc=tmp_path).name(51) == "other"


def test_a_short_name_has_no_arguments_in_it() -> None:
    assert short_name(["/usr/bin/python3", "-u", "-m", "trainer.main", "--token=secret"]) == "python3 trainer.main"
    assert short_name(["/usr/bin/python3", "/home/me/train.py", "--token=secret"]) == "python3 train.py"
    assert short_name(["python3", "-c", "secret"]) == "python3"
    assert short_name(["sglang::scheduler --token=secret"]) == "sglang::scheduler"


def test_what_was_never_measured_and_this_process_itself_are_no_use() -> None:
    names = ProcessNames(EXPECTED, lambda _: "game", Path("/nowhere"))
    none = ((7, 0xFFFFFFFF), (8, 0), (0, 50), (os.getpid(), 50))
    assert classify_processes([process_use(pid, 1_000_000, percent) for pid, percent in none], names, os.getpid()).foreign == {}
    found = classify_processes(
        [process_use(7, 1_000_000, 20), process_use(7, 2_000_000, 40), process_use(8, 3_000_000, 90)], names, os.getpid()
    )
    assert (found.sm, found.used) == (1.0, (Seconds(1.0), Seconds(3.0)))


@pytest.mark.parametrize(("program", "percent", "foreign"), [("Xorg", 4, False), ("Xorg", 40, True), ("game", 4, True)])
def test_drawing_a_desktop_at_a_few_percent_is_no_foreign_use(program: str, percent: int, foreign: bool) -> None:
    names = ProcessNames(EXPECTED, lambda _: program, Path("/nowhere"))
    processes = classify_processes([process_use(7, 1_000_000, percent)], names, os.getpid())
    assert bool(processes.foreign) is foreign
