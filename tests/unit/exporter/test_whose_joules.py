"""A window is answered for the devices that served it: known joules at NVML's C ABI, known processes in a /proc of files."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from joulebench.clock import SystemClock
from joulebench.exporter.energy_api import EnergyApi
from joulebench.gpu.monitor import GpuMonitor
from joulebench.gpu.processes import EXPECTED_PROGRAMS, ProcessNames, ProcessPoller
from joulebench.units import Bytes
from tests.fakes.nvml import MIG_3G, MIG_4G, FakeGpu, Process
from tests.fakes.nvml.script import HOPPER
from tests.fakes.proc_tree import ProcTree
from tests.unit.gpu.conftest import *  # noqa: F403 - the fixture that plays a script
from tests.unit.gpu.rig import POLL, Play, Rig

OLLAMA, RUNNER, VLLM, ENGINE, RESTARTED, NEW_RUNNER = 4_200_001, 4_200_002, 4_200_003, 4_200_004, 4_200_005, 4_200_006
"""Process ids that no machine has."""
BOOTED = 1000.0
"""Uptime at the origin of the script."""
TICKS = os.sysconf("SC_CLK_TCK")
SERVER, NEIGHBOUR = "127.0.0.1:11434", "127.0.0.1:8000"
BUSY, OTHER, IDLE = ((0.0, 300.0), (7.0, 250.0)), ((0.0, 350.0),), ((0.0, 60.0),)

Ask = Callable[..., dict[str, Any]]


class Machine:
    """GPUs of a script, processes of a tree, an exporter's window API over both."""

    def __init__(self, rig: Rig, directory: Path) -> None:
        self.rig = rig
        self.tree = ProcTree(directory)
        self.tree.process(1, 0)
        names = ProcessNames(re.compile(EXPECTED_PROGRAMS, re.IGNORECASE), lambda _: None, directory)
        self.poller = ProcessPoller(rig.source.devices(), names, rig.clock, period=5.0, keep_seconds=1000.0, proc=directory)
        rig.monitor = GpuMonitor(rig.source, rig.clock, poll_period=POLL, processes=self.poller)
        self._api = EnergyApi(rig.monitor, lambda: "nvml", rig.clock, 3600.0)

    def serve(self, server: int, worker: int, address: str, *, start: float = -100.0, program: str = "ollama") -> None:
        host, _, port = address.rpartition(":")
        for pid, parent in ((server, 1), (worker, server)):
            self.tree.process(pid, parent, words=(program,), started=int((BOOTED + start) * TICKS))
        self.tree.listen(server, host, int(port))

    def run(self, until: float) -> None:
        """Polls processes every five seconds, and the counters all the time."""
        while self.rig.now < until - 1e-6:
            self.rig.run(min(until, self.rig.now + 5.0))
            self.tree.uptime(BOOTED + self.rig.now)
            self.poller.poll()

    def ask(self, start: float, end: float, **more: str) -> dict[str, Any]:
        origin = self.rig.script.origin_unix
        query = "&".join(
            [f"start={origin + start!r}", f"end={origin + end!r}", *(f"{key}={value}" for key, value in more.items())]
        )
        status, body = asyncio.run(self._api.answer(query))
        assert status == 200, body
        return body

    def refuse(self, **more: str) -> str:
        return self.refuse_at(1.0, **more)

    def refuse_at(self, start: float, **more: str) -> str:
        begin = self.rig.script.origin_unix + start
        query = "&".join([f"start={begin!r}", f"end={begin + 1!r}", *(f"{key}={value}" for key, value in more.items())])
        status, body = asyncio.run(self._api.answer(query))
        assert status == 400, body
        return str(body["error"])

    def truth(self, start: float, end: float, gpus: Sequence[int]) -> float:
        return sum(self.rig.truth(start, end, gpu) for gpu in gpus)


@pytest.fixture
def machine(play: Play, tmp_path: Path) -> Callable[..., Machine]:
    def made(*gpus: FakeGpu) -> Machine:
        directory = tmp_path / "proc"
        directory.mkdir()
        return Machine(play(*gpus), directory)

    return made


def eight() -> list[FakeGpu]:
    """Two GPUs of the server, two of a neighbour, four that nobody uses."""
    own = [FakeGpu(power=BUSY, processes=[Process(RUNNER, 0.0, float("inf"), 60.0, "")]) for _ in range(2)]
    other = [FakeGpu(power=OTHER, processes=[Process(ENGINE, 0.0, float("inf"), 90.0, "")]) for _ in range(2)]
    return [*own, *other, *(FakeGpu(power=IDLE) for _ in range(4))]


def uuids(body: dict[str, Any]) -> list[str]:
    return [gpu["uuid"] for gpu in body["gpus"]]


def test_two_of_eight_gpus_are_found_by_the_servers_port_beside_a_neighbour(machine: Callable[..., Machine]) -> None:
    box = machine(*eight())
    box.serve(OLLAMA, RUNNER, SERVER)
    box.serve(VLLM, ENGINE, NEIGHBOUR)
    box.run(12.0)
    own = box.ask(3.0, 9.0, server=SERVER)
    truth = box.truth(3.0, 9.0, (0, 1))
    assert (own["basis"], uuids(own)) == ("observed", ["GPU-fake-0", "GPU-fake-1"])
    assert own["total"]["joules"] == pytest.approx(truth, rel=0.01)
    assert own["total"]["low"] <= truth <= own["total"]["high"]
    assert own["total"]["quality"] == "ok"
    neighbour = box.ask(3.0, 9.0, server=NEIGHBOUR)
    assert uuids(neighbour) == ["GPU-fake-2", "GPU-fake-3"]
    assert neighbour["total"]["joules"] == pytest.approx(box.truth(3.0, 9.0, (2, 3)), rel=0.01)


@pytest.mark.parametrize("visible", ["", "3", "7,6", "GPU-fake-5"])
def test_what_cuda_sees_in_the_exporter_changes_no_device_index_or_joule(
    machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    box = machine(*eight())
    box.serve(OLLAMA, RUNNER, SERVER)
    box.run(12.0)
    for question, gpus in (({}, range(8)), ({"gpus": "2,3"}, (2, 3)), ({"server": SERVER}, (0, 1))):
        body = box.ask(3.0, 9.0, **question)
        assert [(gpu["gpu"], gpu["uuid"]) for gpu in body["gpus"]] == [(str(gpu), f"GPU-fake-{gpu}") for gpu in gpus]
        assert body["total"]["joules"] == pytest.approx(box.truth(3.0, 9.0, gpus), rel=0.01)


def test_bounds_hold_for_every_window_that_an_uncertain_clock_may_mean(machine: Callable[..., Machine]) -> None:
    box = machine(*eight())
    box.run(12.0)
    exact = box.ask(3.0, 9.0, gpus="0,1")["total"]
    body = box.ask(3.0, 9.0, gpus="0,1", clock_uncertainty="0.2")
    assert body["total"]["joules"] == exact["joules"]
    for shift in (-0.2, -0.1, 0.1, 0.2):
        assert body["total"]["low"] <= box.truth(3.0 + shift, 9.0 + shift, (0, 1)) <= body["total"]["high"]
    assert body["total"]["low"] <= box.truth(3.2, 8.8, (0, 1))
    assert body["total"]["high"] >= box.truth(2.8, 9.2, (0, 1))
    assert box.ask(3.0, 9.0, gpus="0,1", clock_uncertainty="4")["total"]["low"] == 0.0
    assert box.ask(3.0, 9.0, gpus="0,1", clock_uncertainty="1")["total"]["quality"] == "short"
    assert body["clock"]["answered"] >= body["clock"]["received"]


def test_all_eight_as_an_assumption_are_never_ok(machine: Callable[..., Machine]) -> None:
    box = machine(*eight())
    box.serve(OLLAMA, RUNNER, SERVER)
    box.run(12.0)
    for question in ({}, {"server": "127.0.0.1:9999"}, {"job": "7"}):
        body = box.ask(3.0, 9.0, **question)
        assert body["basis"] == "assumed"
        assert len(body["gpus"]) == 8
        assert body["total"]["quality"] == "suspect"
        assert "devices_assumed" in body["total"]["reasons"]


def test_gpus_that_are_used_alike_may_be_assumed(machine: Callable[..., Machine]) -> None:
    box = machine(*(FakeGpu(power=BUSY, processes=[Process(RUNNER, 0.0, float("inf"), 60.0, "")]) for _ in range(2)))
    box.serve(OLLAMA, RUNNER, SERVER)
    box.run(12.0)
    body = box.ask(3.0, 9.0)
    assert (body["basis"], body["total"]["quality"], body["total"]["reasons"]) == ("assumed", "ok", [])


@pytest.mark.parametrize("names", ["0", "GPU-fake-0", "anyhost:0", "gpu-FAKE-0"])
def test_one_of_eight_is_declared(machine: Callable[..., Machine], names: str) -> None:
    box = machine(*eight())
    box.run(12.0)
    body = box.ask(3.0, 9.0, gpus=names)
    truth = box.truth(3.0, 9.0, (0,))
    assert (body["basis"], uuids(body)) == ("declared", ["GPU-fake-0"])
    assert body["total"]["joules"] == pytest.approx(truth, rel=0.01)
    assert body["total"]["quality"] == "ok"


@pytest.mark.parametrize("uncertainty", [0.0, 0.05])
def test_parts_of_a_window_add_up_to_it_and_hold_the_joules_of_each(machine: Callable[..., Machine], uncertainty: float) -> None:
    box = machine(*eight())
    box.run(12.0)
    (gpu,) = box.ask(3.0, 9.0, gpus="0", cuts="0.4,1.75,5.9", clock_uncertainty=str(uncertainty))["gpus"]
    spans = [(3.0, 3.4), (3.4, 4.75), (4.75, 8.9), (8.9, 9.0)]
    assert sum(joules for joules, _, _ in gpu["parts"]) == pytest.approx(gpu["joules"], abs=1e-6)
    assert len(gpu["parts"]) == len(spans)
    for (start, end), (_, low, high) in zip(spans, gpu["parts"], strict=True):
        truths = [
            box.truth(start + early, end + late, (0,)) if end + late > start + early else 0.0
            for early in (-uncertainty, uncertainty)
            for late in (-uncertainty, uncertainty)
        ]
        assert low <= min(truths)
        assert max(truths) <= high


def test_a_server_that_is_restarted_on_other_cards_is_followed(machine: Callable[..., Machine]) -> None:
    first = [FakeGpu(power=BUSY, processes=[Process(RUNNER, 0.0, 13.0, 60.0, "")]) for _ in range(2)]
    later = [FakeGpu(power=OTHER, processes=[Process(NEW_RUNNER, 14.0, float("inf"), 60.0, "")]) for _ in range(2)]
    box = machine(*first, *later)
    box.serve(OLLAMA, RUNNER, SERVER)
    box.run(13.0)
    for pid in (OLLAMA, RUNNER):
        box.tree.end(pid)
    box.rig.run(14.0)
    box.serve(RESTARTED, NEW_RUNNER, SERVER, start=14.0)
    box.run(25.0)
    before, after = box.ask(5.0, 12.0, server=SERVER), box.ask(16.0, 22.0, server=SERVER)
    assert (uuids(before), uuids(after)) == (["GPU-fake-0", "GPU-fake-1"], ["GPU-fake-2", "GPU-fake-3"])
    assert before["total"]["joules"] == pytest.approx(box.truth(5.0, 12.0, (0, 1)), rel=0.01)
    assert after["total"]["joules"] == pytest.approx(box.truth(16.0, 22.0, (2, 3)), rel=0.01)


def test_a_card_of_two_servers_is_divided_by_sm_time_within_bounds_of_nothing_and_all(machine: Callable[..., Machine]) -> None:
    both = [Process(RUNNER, 0.0, float("inf"), 60.0, ""), Process(ENGINE, 0.0, float("inf"), 20.0, "")]
    box = machine(FakeGpu(power=BUSY, processes=both))
    box.serve(OLLAMA, RUNNER, SERVER)
    box.serve(VLLM, ENGINE, NEIGHBOUR)
    box.run(12.0)
    own, other = box.ask(3.0, 9.0, server=SERVER, cuts="2,4"), box.ask(3.0, 9.0, server=NEIGHBOUR)
    truth = box.truth(3.0, 9.0, (0,))
    assert "parts" not in own["gpus"][0], "nothing says which part of the share is of which moment"
    assert own["gpus"][0]["share"] == pytest.approx(0.75, abs=0.05)
    assert own["total"]["joules"] == pytest.approx(0.75 * truth, rel=0.05)
    assert own["total"]["joules"] + other["total"]["joules"] == pytest.approx(truth, rel=0.01)
    for body in (own, other):
        assert body["total"]["low"] == 0
        assert body["total"]["high"] >= truth
        assert (body["total"]["quality"], body["total"]["reasons"]) == ("suspect", ["gpu_shared"])


def test_a_neighbour_that_came_and_went_between_two_polls_is_no_use_of_the_servers_own(machine: Callable[..., Machine]) -> None:
    visit = Process(ENGINE, 10.7, 14.2, 60.0, "")
    box = machine(FakeGpu(power=BUSY, processes=[Process(RUNNER, 0.0, float("inf"), 20.0, ""), visit]))
    box.serve(OLLAMA, RUNNER, SERVER)
    box.run(16.0)
    gpu = box.ask(11.0, 14.0, server=SERVER)["gpus"][0]
    assert (gpu["quality"], gpu["reasons"], gpu["low"]) == ("suspect", ["gpu_shared"], 0.0)
    assert gpu["share"] == pytest.approx(0.25, abs=0.05)
    assert gpu["high"] >= box.truth(11.0, 14.0, (0,))
    assert box.ask(3.0, 8.0, server=SERVER)["total"]["quality"] == "ok"


def test_what_a_process_used_until_it_ended_counts_in_the_shares(machine: Callable[..., Machine]) -> None:
    box = machine(
        FakeGpu(power=BUSY, processes=[Process(RUNNER, 0.0, float("inf"), 20.0, ""), Process(ENGINE, 0.0, 14.6, 60.0, "")])
    )
    box.serve(OLLAMA, RUNNER, SERVER)
    box.serve(VLLM, ENGINE, NEIGHBOUR)
    box.run(10.5)
    # Gone when processes are looked at again.
    box.tree.end(ENGINE)
    box.run(16.0)
    own, other = (box.ask(11.0, 14.0, server=server)["gpus"][0] for server in (SERVER, NEIGHBOUR))
    assert (own["share"], other["share"]) == (pytest.approx(0.25, abs=0.05), pytest.approx(0.75, abs=0.05))


def test_a_shared_card_whose_use_the_driver_does_not_report_has_bounds_and_no_estimate(machine: Callable[..., Machine]) -> None:
    both = [Process(RUNNER, 0.0, float("inf"), 0.0, ""), Process(ENGINE, 0.0, float("inf"), 0.0, "")]
    box = machine(FakeGpu(power=BUSY, processes=both))
    box.serve(OLLAMA, RUNNER, SERVER)
    box.serve(VLLM, ENGINE, NEIGHBOUR)
    box.run(12.0)
    total = box.ask(3.0, 9.0, server=SERVER)["total"]
    assert (total["joules"], total["low"], total["quality"]) == (None, 0.0, "missing")
    assert total["high"] >= box.truth(3.0, 9.0, (0,))


def test_a_neighbour_that_only_holds_memory_takes_nothing(machine: Callable[..., Machine]) -> None:
    both = [Process(RUNNER, 0.0, float("inf"), 60.0, ""), Process(ENGINE, 0.0, float("inf"), 0.0, "")]
    box = machine(FakeGpu(power=BUSY, processes=both))
    box.serve(OLLAMA, RUNNER, SERVER)
    box.serve(VLLM, ENGINE, NEIGHBOUR)
    box.run(12.0)
    own = box.ask(3.0, 9.0, server=SERVER)
    assert own["total"]["joules"] == pytest.approx(box.truth(3.0, 9.0, (0,)), rel=0.01)
    assert own["total"]["quality"] == "ok"


def test_a_server_of_a_name_that_nobody_expects_is_not_foreign_to_its_own_tasks(machine: Callable[..., Machine]) -> None:
    box = machine(FakeGpu(power=BUSY, processes=[Process(RUNNER, 0.0, float("inf"), 60.0, "")]))
    box.serve(OLLAMA, RUNNER, SERVER, program="home-made-server")
    box.run(12.0)
    assert box.ask(3.0, 9.0)["total"]["reasons"] == ["foreign_process"]
    own = box.ask(3.0, 9.0, server=SERVER)["total"]
    assert (own["quality"], own["reasons"]) == ("ok", [])


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"gpus": "9"}, "gpus: 9 matches no GPU; there are: 0 (GPU-fake-0), 1 (GPU-fake-1)"),
        ({"gpus": "GPU-fake"}, "gpus: GPU-fake matches 2 GPUs"),
        ({"gpus": "a card"}, "gpus: 'a card' is not a GPU"),
        ({"server": "box"}, "'box' is not HOST:PORT"),
        ({"server": SERVER, "job": "7"}, "server and job are given together; name one owner"),
        ({"container": "web"}, "container='web' is not an id of at least 12 hexadecimal digits"),
        ({"gpus": "0," * 1500}, "gpus has 3000 characters; at most 2048 are read"),
    ],
)
def test_a_question_about_devices_that_cannot_be_is_refused(
    machine: Callable[..., Machine], question: dict[str, str], message: str
) -> None:
    box = machine(FakeGpu(power=IDLE), FakeGpu(power=IDLE))
    box.run(3.0)
    assert box.refuse(**question).startswith(message)


# --- MIG --------------------------------------------------------------------------------------------------------------------


def divided(activity: Sequence[float] = (), **more: Any) -> FakeGpu:
    """One Hopper card as 3g and 4g, with the server on the first and the neighbour on the second."""
    halves = [replace(MIG_3G, uuid="MIG-3g"), replace(MIG_4G, uuid="MIG-4g")]
    halves = (
        [replace(half, activity=((0.0, value),)) for half, value in zip(halves, activity, strict=True)] if activity else halves
    )
    processes = [Process(RUNNER, mig=0), Process(ENGINE, mig=1)]
    card: dict[str, Any] = {"power": BUSY, "arch": HOPPER, "migs": halves, "processes": processes, "gpm": bool(activity), **more}
    return FakeGpu(**card)


def two_servers(machine: Callable[..., Machine], *gpus: FakeGpu) -> Machine:
    box = machine(*gpus)
    box.serve(OLLAMA, RUNNER, SERVER)
    box.serve(VLLM, ENGINE, NEIGHBOUR)
    box.run(12.0)
    return box


@pytest.mark.parametrize(("activity", "share"), [((), 3 / 7), ((0.8, 0.2), 0.75), ((0.0, 0.0), 3 / 7), ((0.9, 0.0), 1.0)])
def test_instances_of_a_gpu_share_its_joules_by_their_sms_and_activity(
    machine: Callable[..., Machine], activity: Sequence[float], share: float
) -> None:
    box = two_servers(machine, divided(activity), FakeGpu(power=IDLE))
    truth = box.truth(3.0, 9.0, (0,))
    answers = [box.ask(3.0, 9.0, server=SERVER), box.ask(3.0, 9.0, server=NEIGHBOUR)]
    assert [(body["basis"], uuids(body)) for body in answers] == [("observed", ["MIG-3g"]), ("observed", ["MIG-4g"])]
    assert answers[0]["gpus"][0]["share"] == pytest.approx(share, abs=0.01)
    assert answers[0]["total"]["joules"] == pytest.approx(share * truth, rel=0.02)
    assert sum(body["total"]["joules"] for body in answers) == pytest.approx(truth, rel=0.01)
    for body in answers:
        assert body["gpus"][0]["parent"] == "GPU-fake-0"
        assert body["total"]["low"] == 0
        assert body["total"]["high"] >= truth
        assert (body["total"]["quality"], body["total"]["reasons"]) == ("suspect", ["part_time_sensor", "mig_estimated"])
        assert [one["uuid"] for one in body["mig"]] == ["MIG-3g", "MIG-4g"]


@pytest.mark.parametrize("names", ["MIG-3g", "mig-3", "anyhost:MIG-3g"])
def test_a_declared_instance_is_a_part_of_its_gpu(machine: Callable[..., Machine], names: str) -> None:
    box = two_servers(machine, divided(), FakeGpu(power=IDLE))
    truth = box.truth(3.0, 9.0, (0,))
    part = box.ask(3.0, 9.0, gpus=names)
    assert (part["basis"], uuids(part), part["total"]["quality"]) == ("declared", ["MIG-3g"], "suspect")
    assert part["total"]["joules"] == pytest.approx(3 / 7 * truth, rel=0.01)
    both = box.ask(3.0, 9.0, gpus="MIG-3g,MIG-4g")["total"]
    assert both["joules"] == pytest.approx(truth, rel=0.01)
    assert truth <= both["high"] <= 1.05 * truth
    whole = box.ask(3.0, 9.0, gpus="0,MIG-3g")
    assert (uuids(whole), whole["total"]["quality"]) == (["GPU-fake-0"], "ok")


def test_a_gpu_that_is_divided_is_never_ok_as_an_assumption(machine: Callable[..., Machine]) -> None:
    box = two_servers(machine, divided())
    total = box.ask(3.0, 9.0)["total"]
    assert (total["quality"], total["reasons"]) == ("suspect", ["part_time_sensor", "devices_assumed"])


def test_instances_that_were_destroyed_and_made_anew_are_those_of_their_time(machine: Callable[..., Machine]) -> None:
    halves = [
        replace(MIG_3G, uuid="MIG-old", end=13.0),
        replace(MIG_4G, uuid="MIG-4g"),
        replace(MIG_3G, uuid="MIG-new", start=15.0),
    ]
    processes = [Process(RUNNER, 0.0, 13.0, mig=0), Process(ENGINE, mig=1), Process(NEW_RUNNER, 15.0, mig=2)]
    box = machine(divided(migs=halves, processes=processes))
    box.serve(OLLAMA, RUNNER, SERVER)
    box.serve(VLLM, ENGINE, NEIGHBOUR)
    box.run(13.0)
    for pid in (OLLAMA, RUNNER):
        box.tree.end(pid)
    box.serve(RESTARTED, NEW_RUNNER, SERVER, start=15.0)
    box.run(25.0)
    assert uuids(box.ask(5.0, 12.0, server=SERVER)) == ["MIG-old"]
    assert uuids(box.ask(18.0, 24.0, server=SERVER)) == ["MIG-new"]
    assert "there are: 0 (GPU-fake-0), 0 (MIG-4g), 0 (MIG-new)" in box.refuse_at(20.0, gpus="MIG-old")


def test_instances_are_shown_with_memory_and_with_activity_where_the_card_gives_it(machine: Callable[..., Machine]) -> None:
    memory = ((0.0, 3 << 30),)
    box = two_servers(machine, divided((0.25, 0.5)), divided(migs=[replace(MIG_3G, memory_used=memory)], processes=[]))
    measured, plain = box.rig.monitor.snapshot()
    assert [one.utilization for one in measured.state.instances] == pytest.approx([0.25, 0.5])
    (one,) = plain.state.instances
    assert (one.instance.profile, one.instance.multiprocessors) == ("3g.20gb", 42)
    assert (one.memory_used, one.utilization) == (Bytes(3 << 30), None)
    assert plain.state.utilization is None
    assert {mig for mig, _ in measured.processes.owners} == {"MIG-3g", "MIG-4g"}


# --- owners in the exposition ---------------------------------------------------------------------------------------------


def owners(box: Machine, gpu: int) -> list[tuple[str, float, float | None]]:
    """(server, start, end) of each owner, in seconds since the origin."""
    origin, shown = box.rig.script.origin_unix, box.rig.monitor.snapshot()[gpu].processes.owners
    return [
        (labels[0], round(use.start - origin, 1), None if use.end is None else round(use.end - origin, 1))
        for (_, labels), use in shown.items()
    ]


def test_owners_are_shown_with_start_and_end_of_their_use(machine: Callable[..., Machine]) -> None:
    """Ollama's runner listens on a port that the kernel gave, which says nothing to anybody."""
    runner = Process(RUNNER, 0.0, 13.0, 60.0, "")
    box = machine(FakeGpu(processes=[runner, Process(ENGINE)]), FakeGpu(processes=[runner]), FakeGpu())
    box.serve(OLLAMA, RUNNER, SERVER)
    box.tree.listen(RUNNER, "127.0.0.1", 43_251)
    box.serve(VLLM, ENGINE, "0.0.0.0:8000", start=-50.0)
    box.run(12.0)
    assert owners(box, 0) == [("0.0.0.0:8000", -50.0, None), (SERVER, -100.0, None)]
    assert owners(box, 1) == [(SERVER, -100.0, None)]
    assert owners(box, 2) == []
    box.run(20.0)
    ((_, _, end),) = owners(box, 1)
    assert end is not None
    assert 13.0 <= end <= 20.0
    box.run(145.0)
    assert owners(box, 1) == []
    assert [server for server, _, _ in owners(box, 0)] == ["0.0.0.0:8000"]


def test_a_container_is_shown_with_the_address_that_other_networks_reach(machine: Callable[..., Machine]) -> None:
    box = machine(FakeGpu(processes=[Process(ENGINE)]))
    box.tree.network("net:[7]", "127.0.0.1", "172.17.0.2")
    box.tree.process(ENGINE, 1, words=("vllm",), network="net:[7]")
    box.tree.listen(ENGINE, "0.0.0.0", 8000)
    box.tree.listen(ENGINE, "127.0.0.1", 9000)
    box.run(6.0)
    assert [server for server, _, _ in owners(box, 0)] == ["172.17.0.2:8000"]


def test_more_owners_than_are_shown_are_counted(machine: Callable[..., Machine]) -> None:
    processes = [Process(4_300_000 + number) for number in range(70)]
    box = machine(FakeGpu(processes=processes))
    for process in processes:
        cgroup, network = f"0::/system.slice/llm{process.pid}.service", f"net:[{process.pid}]"
        box.tree.process(process.pid, 1, words=("vllm",), cgroup=cgroup, network=network)
    box.run(6.0)
    summary = box.rig.monitor.snapshot()[0].processes
    assert (len(summary.owners), summary.owners_dropped) == (64, 6)


def test_the_clock_of_the_machine_is_the_systems() -> None:
    """The starts of processes are compared with it."""
    uptime = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
    assert uptime >= SystemClock().monotonic() - 1.0
