"""The scene of a sick GPU: one of two overheats by a timetable and cools again, while a benchmark runs its tasks.

The real exporter, Prometheus with the repository's rules and Alertmanager with the repository's routing and its waits, and a
receiver that listens here. It takes two minutes until the alert has come and gone. So the first test of a session starts it, it
plays in the background of the others, and the tests that look at it come last.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from joulebench import Run
from joulebench.clock import SystemClock
from joulebench.stack.data_files import data_path
from joulebench.stack.native import NativeStack, Ports
from tests.fakes.alert_receiver import AlertReceiver

RUN_ID = "sick-gpu"
SICK = 1
"""Index of the GPU that overheats."""

SPELL = 6.0
"""Seconds. Short, so that the alert's condition has gone before Alertmanager tells of the group for the second time."""
SW_THERMAL, HW_THERMAL = (0.0, SPELL), (SPELL / 4, SPELL * 3 / 4)
"""When heat holds the clocks down, in seconds after the onset."""
BEGIN_TO_ONSET = 30.0
LEAD = 5.0
"""Seconds until the timetable begins; with what follows there is time to start all programs."""

TASKS: Mapping[str, tuple[float, float]] = {"inside": (1.0, 3.5), "partly": (4.0, 8.0), "outside": (9.0, 11.0)}
"""In seconds after the onset."""


@dataclass(frozen=True, slots=True)
class Truth:
    """Seconds of one window for which each reason held the clocks of the sick GPU down."""

    sw_thermal: float
    hw_thermal: float


class OverheatingScene:
    """``onset``: unix time."""

    def __init__(self, directory: Path) -> None:
        self.receiver = AlertReceiver()
        self.runs = directory / "runs"
        begin = SystemClock().unix() + LEAD
        self.onset = begin + BEGIN_TO_ONSET
        config = self.receiver.write_config(
            data_path("prometheus/alertmanager.yml"), directory / "alertmanager.yml", hurried=False
        )
        flags = (
            "--gpu-source=simulated",
            "--simulated.gpus=2",
            "--simulated.scenario=recovering",
            f"--simulated.throttle-seconds={SPELL}",
            f"--simulated.begin={begin!r}",
            "--no-ollama",
        )
        self.stack = NativeStack(directory / "stack", Ports.free(), flags, alertmanager_config=config)
        self._benchmark = threading.Thread(target=self._run, name="sick-gpu-benchmark")
        self._stopped = threading.Event()
        self._open = ExitStack()

    @property
    def recovery(self) -> float:
        """Unix time at which nothing holds the clocks down any more."""
        return self.onset + SPELL

    def __enter__(self) -> OverheatingScene:
        with ExitStack() as opened:
            opened.enter_context(self.receiver)
            opened.enter_context(self.stack)
            self._benchmark.start()
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._benchmark.join()
        self._open.close()

    def await_benchmark(self) -> None:
        self._benchmark.join()

    def truth(self, start: float, end: float) -> Truth:
        """Of a window in unix times."""
        return Truth(*(_overlap(span, start - self.onset, end - self.onset) for span in (SW_THERMAL, HW_THERMAL)))

    def _run(self) -> None:
        with Run(
            model="m",
            run_id=RUN_ID,
            worker="w",
            runs_dir=self.runs,
            gateway_url=self.stack.gateway_url,
            prometheus_url=self.stack.prometheus_url,
            exporter_url=self.stack.exporter_url,
        ) as run:
            for name, (start, end) in TASKS.items():
                self._wait_for(start)
                with run.task(name) as task:
                    with task.call() as call:
                        self._wait_for(end - 0.5)
                        call.finish(prompt_tokens=100, completion_tokens=50)
                    self._wait_for(end)
                    task.succeed()

    def _wait_for(self, seconds: float) -> None:
        """Until that many seconds after the onset, or the end of the scene."""
        self._stopped.wait(max(0.0, self.onset + seconds - SystemClock().unix()))


def _overlap(span: tuple[float, float], start: float, end: float) -> float:
    return max(min(span[1], end) - max(span[0], start), 0.0)
