"""Whose joules: what exporters answer for devices that were declared, observed or assumed, against the joules of fake GPUs.

Host A has eight GPUs: a model server on two, a neighbour's on two more, one that is started again on another GPU, one that shares
a GPU with the neighbour at 3 to 1, and one on a MIG instance. Host B has two GPUs. The exporters and the processes are real.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from joulebench.clients.exporter import EnergyAnswer, ExporterGroup
from joulebench.clock import Clock, wait_until
from joulebench.devices import DeviceChoice
from joulebench.errors import EnergyApiError
from joulebench.settings import Url
from joulebench.stack.process import Program, free_port
from joulebench.units import Seconds
from tests.benchmarks.report import Report, Target
from tests.fakes import nvml
from tests.fakes.listening import listening
from tests.fakes.nvml.script import HOPPER, MIG_3G, MIG_4G

WINDOW_SECONDS = 4.0
SEEN_SECONDS = 12.0
"""The exporter looks at processes every five seconds."""
MOST_JOULES, MOST_SHARE = 1.0, 5.0
"""Highest error in percent of joules, and of those that are a share of a GPU."""


@dataclass
class _Host:
    name: str
    gpus: Sequence[nvml.FakeGpu]
    directory: Path
    url: Url = field(default_factory=lambda: Url.parse(f"http://127.0.0.1:{free_port()}", "--exporter-url"))

    def start(self, stack: ExitStack) -> None:
        self.busy = nvml.BusyFile(self.directory / f"{self.name}.busy")
        power = [
            replace(gpu, uuid=f"GPU-{self.name}{i}", power=((0.0, 150.0 + 20 * i), (0.6, 300.0 + 10 * i)), loop=1.1 + 0.07 * i)
            for i, gpu in enumerate(self.gpus)
        ]
        self.script = nvml.FakeGpuScript(power, busy=self.busy)
        environment = nvml.environment(self.script.write(self.directory / f"{self.name}.gpus"))
        address = self.url.base.removeprefix("http://")
        argv = [
            sys.executable,
            "-m",
            "joulebench.cli",
            "exporter",
            f"--web.listen-address={address}",
            "--no-ollama",
            "--processes.known=.",
        ]
        self.program = Program("exporter", argv, self.directory / f"{self.name}.log", f"{self.url.base}/healthz", environment)
        self.program.start()
        stack.callback(self.program.stop)

    def joules(self, window: tuple[float, float], *gpus: int) -> float:
        return sum(self.script.joules(gpu, *window) for gpu in gpus)


def run(report: Report, clock: Clock) -> None:
    report.heading("Whose joules: answers of real exporters, on fake GPUs with known joules")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        scene = _Scene(report, clock, Path(directory), stack)
        scene.play()
        report.table(("case", "true J", "answer J", "error", "bounds J", "hold", "verdict"), scene.rows)
        report.say("true J of a shared GPU or an instance: its share of the GPU's joules by construction.")


class _Scene:
    def __init__(self, report: Report, clock: Clock, directory: Path, stack: ExitStack) -> None:
        self.rows: list[tuple[str, ...]] = []
        self._report, self._clock, self._stack = report, clock, stack
        (
            (self._server, self._address),
            (neighbour, _),
            (shares, self._sharing),
            (instance, self._on_instance),
            (moves, self._moving),
        ) = (stack.enter_context(listening()) for _ in range(5))
        self._moves = moves
        used = nvml.FakeGpu(processes=[nvml.Process(self._server.pid, sm=60.0)])
        divided = nvml.FakeGpu(
            arch=HOPPER,
            migs=[replace(MIG_3G, uuid="MIG-3g"), replace(MIG_4G, uuid="MIG-4g")],
            processes=[nvml.Process(instance.pid, mig=0), nvml.Process(neighbour.pid, mig=1)],
        )
        neighbours = nvml.FakeGpu(processes=[nvml.Process(neighbour.pid, sm=90.0)])
        shared = nvml.FakeGpu(processes=[nvml.Process(shares.pid, sm=60.0), nvml.Process(neighbour.pid, sm=20.0)])
        free = nvml.FakeGpu()
        self._a = _Host("a", [used, used, neighbours, neighbours, free, free, shared, divided], directory)
        self._b = _Host("b", [free, free], directory)
        for host in (self._a, self._b):
            host.start(stack)
        self._a.busy.enter(4, moves.pid)

    def play(self) -> None:
        a, b = self._a, self._b
        for server in (self._address, self._sharing, self._on_instance, self._moving):
            assert wait_until(lambda server=server: self._is_seen(server), SEEN_SECONDS), f"{server} is never seen"  # type: ignore[misc]
        window = self._window()
        self._case("declared: 1 of 8", [a], window, a.joules(window, 2), gpus="2")
        both = a.joules(window, 0, 1) + b.joules(window, 0, 1)
        uuids = "GPU-a0,GPU-a1,GPU-b0,GPU-b1"
        self._case("declared: 2 of 8, 2 of host B", [a, b], window, both, gpus=uuids)
        own = a.joules(window, 0, 1)
        self._case("observed: 2 of 8 by the port", [a], window, own, server=self._address)
        self._case("assumed: all 8", [a], window, own)
        self._case("observed: before a restart", [a], window, a.joules(window, 4), server=self._moving)
        part = 0.75 * a.joules(window, 6)
        self._case("shared 3:1 with the neighbour", [a], window, part, most=MOST_SHARE, server=self._sharing)
        slice_of = MIG_3G.compute_slices / (MIG_3G.compute_slices + MIG_4G.compute_slices)
        instance = slice_of * a.joules(window, 7)
        self._case("MIG 3g beside 4g", [a], window, instance, most=MOST_SHARE, server=self._on_instance)
        self._move()
        # A server loads its model before it answers; meanwhile the exporter sees that the old process is gone.
        assert wait_until(lambda: self._uses(self._moving) == ["GPU-a5"], SEEN_SECONDS), "the restart is never seen"
        window = self._window()
        self._case("observed: after a restart", [a], window, a.joules(window, 5), server=self._moving)
        b.program.stop()
        both = a.joules(window, 0, 1) + b.joules(window, 0, 1)
        self._case("declared: 2 and 2, B is gone", [a, b], window, both, gpus=uuids)

    def _window(self) -> tuple[float, float]:
        start = self._clock.unix()
        threading.Event().wait(WINDOW_SECONDS)
        return start, start + WINDOW_SECONDS

    def _is_seen(self, server: str) -> bool:
        return bool(self._uses(server))

    def _uses(self, server: str) -> list[str]:
        now = self._clock.unix()
        answer = self._ask([self._a], (now - 1.0, now - 0.1), server=server)
        return [gpu.uuid for gpu in answer.gpus] if answer.basis == "observed" else []

    def _move(self) -> None:
        self._moves.kill()
        self._moves.wait()
        again, _ = self._stack.enter_context(listening(int(self._moving.rpartition(":")[2])))
        self._a.busy.leave(4, self._moves.pid)
        self._a.busy.enter(5, again.pid)

    def _ask(self, hosts: Sequence[_Host], window: tuple[float, float], **devices: str) -> EnergyAnswer:
        choice = DeviceChoice.from_settings(devices.get("gpus"), devices.get("server"), {}, "--gpus")
        group = ExporterGroup([host.url for host in hosts], choice, self._clock)
        try:
            return group.energy(Seconds(window[0]), Seconds(window[1]), 1.0)
        finally:
            group.close()

    def _case(
        self,
        name: str,
        hosts: Sequence[_Host],
        window: tuple[float, float],
        truth: float,
        most: float = MOST_JOULES,
        **devices: str,
    ) -> None:
        try:
            answer = self._ask(hosts, window, **devices)
        except EnergyApiError as failure:
            self.rows.append((name, f"{truth:.0f}", str(failure), "", "", "", ""))
            self._report.targets.append(Target(f"{name}: error", most, None, "%"))
            return
        total = answer.raw_total
        joules, low, high = total["joules"], total["low"], total["high"]
        error_percent = None if joules is None else 100 * abs(joules / truth - 1)
        holds = (low is None or low <= truth) and (high is None or truth <= high)
        bounds = f"{'-' if low is None else f'{low:.0f}'} to {'-' if high is None else f'{high:.0f}'}"
        verdict = " ".join((total["quality"], *total["reasons"]))
        shown = "unknown" if joules is None else f"{joules:.0f}"
        error = "-" if error_percent is None else f"{error_percent:.3g} %"
        if answer.basis == "assumed":
            shown_hold = "-"  # They are bounds of other GPUs, too.
        else:
            shown_hold = "yes" if holds else "NO"
            self._report.targets.append(Target(f"{name}: bounds hold", 1, float(holds), "", at_least=True))
        self.rows.append((name, f"{truth:.0f}", shown, error, bounds, shown_hold, verdict))
        if answer.basis == "assumed" or answer.missing_hosts:
            self._report.targets.append(Target(f"{name}: not ok", 1, float(total["quality"] != "ok"), "", at_least=True))
        else:
            self._report.targets.append(Target(f"{name}: error", most, error_percent, "%"))
