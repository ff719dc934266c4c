"""The machines of the fault tests and what each of them is made to suffer while it works.

Times are seconds after work begins. Every machine is alone with its fault; the first has one card for each fault.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from joulebench import Run, metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import wait_until
from joulebench.push.task import Task
from tests.e2e.faults.hosts import HIGH_WATTS, LOW_WATTS, PERIOD, PULSES, Host, SetClock, is_up, uuid
from tests.fakes.nvml import During, Every, FakeGpu, Fault, Process, fails, field_answers, field_fails, gone, slow
from tests.fakes.nvml.script import HW_THERMAL, SW_THERMAL

ENERGY, OLD_ENERGY, POWER = 191, 83, 186
NO_COUNTER = (field_fails(ENERGY), field_fails(OLD_ENERGY), fails("nvmlDeviceGetTotalEnergyConsumption"))
NO_POWER = (field_fails(POWER), fails("nvmlDeviceGetPowerUsage"))

HEALTHY, ZERO_WATTS, SPORADIC, RESET, LOST, SLOW = range(6)


def card(host: str, gpu: int, *faults: Fault, resets: Sequence[float] = ()) -> FakeGpu:
    # No two cards step together, as no two real ones do.
    phase = 0.013 * (gpu + 1)
    return FakeGpu(power=PULSES, loop=PERIOD, uuid=uuid(host, gpu), phase=phase, faults=faults, resets=resets)


# --- one card for each fault ------------------------------------------------------------------------------------------

SLOW_CALLS = (3.2, 3.5)
DARK = (2.3, 4.6)
RESET_AT = 6.23
GONE = (13.3, 14.6)


def zoo() -> Host:
    def cards(begin: float) -> list[FakeGpu]:
        name = "zoo"
        return [
            card(name, HEALTHY),
            card(name, ZERO_WATTS, field_answers(POWER, 0, Every(3)), field_answers(POWER, 0, _during(begin, DARK))),
            card(name, SPORADIC, field_fails(ENERGY, Every(3))),
            card(name, RESET, resets=(begin + RESET_AT,)),
            card(name, LOST, gone(begin + GONE[0], begin + GONE[1])),
            card(name, SLOW, slow(0.2, _during(begin, SLOW_CALLS))),
        ]

    def work(host: Host) -> None:
        with host.run() as run:
            host.look("begin")
            host.task(run, "quiet", 0.2, 2.4, lambda: _look_at(host, 1.2, "quiet"))
            host.task(run, "slow", 2.5, 4.5, lambda: _look_at(host, 4.2, "slow"))
            # A fall of the counter is a reset once it has stayed for five seconds.
            host.task(run, "reset", 4.6, 12.4, lambda: _look_at(host, 12.0, "reset"))
            host.task(run, "lost", 12.6, 16.4, lambda: _lost_and_back(host))
        host.look("end")

    return Host("zoo", cards, work)


def _lost_and_back(host: Host) -> None:
    host.look_until("lost", lambda seen: not is_up(LOST)(seen))
    host.look_until("back", is_up(LOST))


# --- cards that cannot be measured -------------------------------------------------------------------------------------


ALL_DARK = (3.6, 5.3)


def no_counter() -> Host:
    """The second card has no energy counter, and for a while no power either."""

    def cards(begin: float) -> list[FakeGpu]:
        dark = field_answers(POWER, 0, _during(begin, ALL_DARK))
        return [card("no-counter", 0), card("no-counter", 1, *NO_COUNTER, dark)]

    def work(host: Host) -> None:
        with host.run() as run:
            host.task(run, "integrated", 0.2, 2.4, lambda: _look_at(host, 1.2, "integrated"))
            host.task(run, "dark", 2.5, 6.5, lambda: _look_at(host, 5.1, "dark"))

    return Host("no-counter", cards, work)


def mute() -> Host:
    """A card that tells neither energy nor power."""

    def cards(begin: float) -> list[FakeGpu]:
        return [card("mute", 0, *NO_COUNTER, *NO_POWER)]

    return Host("mute", cards, one_task)


def bare() -> Host:
    """No NVIDIA driver at all."""
    return Host("bare", lambda _: [], one_task, has_nvml=False)


# --- drivers -----------------------------------------------------------------------------------------------------------

HOT = ((1.6, HW_THERMAL, 2.2), (2.4, SW_THERMAL, 2.65))
"""From, reason, until; at least one scrape inside the task lies on either side."""
HW_SECONDS, SW_SECONDS = 0.6, 0.25
MISSING_SYMBOLS = (
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetTemperatureV",
    "nvmlDeviceGetMarginTemperature",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetProcessUtilization",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlSystemGetProcessName",
)


def with_driver(version: str, other_ids: Sequence[int] = (), without: Sequence[str] = ()) -> Host:
    """``other_ids``: field ids of throttle counters under other drivers; here they answer with a number that is no time."""
    name = f"driver-{version}"

    def cards(begin: float) -> list[FakeGpu]:
        reasons = [(0.0, 0.0)]
        for since, reason, until in HOT:
            reasons += [(begin + since, float(reason)), (begin + until, 0.0)]
        pulses = ((0.0, LOW_WATTS), (begin + 0.8, HIGH_WATTS), (begin + 1.5, LOW_WATTS))
        wrong = tuple(field_answers(field, 4e12) for field in other_ids)
        return [FakeGpu(power=pulses, reasons=reasons, uuid=uuid(name, 0), phase=0.04, faults=wrong)]

    return Host(name, cards, lambda host: one_task(host, 4.3), driver=version, without=without)


OLD_IDS, NEW_IDS = range(251, 254), range(269, 272)
OLD_NUMBERS = ("575.51.03", "580.65.06")
NEW_NUMBERS = ("580.82.07",)
OLD_DRIVER = "470.42.01"


def drivers() -> list[Host]:
    return [
        *(with_driver(version, NEW_IDS) for version in OLD_NUMBERS),
        *(with_driver(version, OLD_IDS) for version in NEW_NUMBERS),
        with_driver(OLD_DRIVER, without=MISSING_SYMBOLS),
    ]


# --- an exporter that is killed in the middle of a task ---------------------------------------------------------------


RESTARTED, RESTARTED_POWER = "restarted", "restarted-power"


def restarted(name: str, *faults: Fault) -> Host:
    """With one card, which has these faults."""

    def killed_and_started(host: Host) -> None:
        host.wait_for(1.7)
        host.look("before")
        host.exporter.kill()
        host.exporter.start()
        host.look("after")
        # Two scrapes of the new exporter lie inside the task, and of a card whose power it integrates some more.
        threading.Event().wait(2.0)
        host.look("inside")

    def work(host: Host) -> None:
        with host.run() as run:
            host.task(run, "restarted", 0.2, 4.3, lambda: killed_and_started(host))

    return Host(name, lambda _: [card(name, 0, *faults)], work)


# --- a wall clock that is set in the middle of a task: of the benchmark, of the exporter, of both -----------------------

FORWARD, BACK = "set-forward", "set-back"
STEPPED_TASK = (0.2, 3.2)
STEP_AT = 1.7


def stepped(name: str, seconds: float) -> Host:
    """``seconds``: by which the clock is set. The clocks of the exporter and of the gateway stay."""

    def work(host: Host) -> None:
        clock = SetClock()

        def set_it() -> None:
            host.wait_for(STEP_AT)
            clock.ahead = seconds

        with host.run(clock) as run:
            host.task(run, "stepped", *STEPPED_TASK, set_it)

    # Nobody tells such a run which GPUs are its own, since the exporter cannot answer for a time that has not come.
    return Host(name, lambda _: [card(name, 0)], work, export_flags=lambda host: [f"--instance={host.address}"])


EXPORTER_FORWARD, EXPORTER_BACK, BOTH_FORWARD = "exporter-set-forward", "exporter-set-back", "both-set-forward"
BEFORE_TASK = (0.1, 1.8)
EXPORTERS_TASK = (2.1, 4.7)
EXPORTERS_STEP_AT = 3.3
AFTER_TASK = (10.1, 12.3)
"""Long after the clock was set; from then on it is only off."""


def stepped_exporter(name: str, seconds: float, *, with_benchmark: bool = False) -> Host:
    """A machine whose clock is set by ``seconds``; the benchmark runs on another one, or on the same ``with_benchmark``."""

    def work(host: Host) -> None:
        clock = SetClock()

        def set_it() -> None:
            host.wait_for(EXPORTERS_STEP_AT)
            host.clock.step(seconds)
            if with_benchmark:
                clock.ahead = seconds
            host.look_until("stepped", lambda seen: seen.value(metrics.EXPORTER_CLOCK_STEPS) == 1)

        with host.run(clock) as run:
            host.task(run, "before", *BEFORE_TASK)
            host.task(run, "stepped", *EXPORTERS_TASK, set_it)
            host.task(run, "after", *AFTER_TASK)

    return Host(name, lambda _: [card(name, 0)], work, own_clock=True)


# --- tasks that overlap ------------------------------------------------------------------------------------------------

OVERLAPPING = {"a": (0.2, 4.3), "b": (0.7, 3.6), "c": (1.2, 3.1), "d": (1.6, 2.6)}
"""One to four at a time. ``a`` and ``b`` call a model all the time, ``c`` in its second half, ``d`` never."""
AFTERWARDS = ("e", 5.2, 6.4)
"""Alone, after a pause in which nobody worked."""


def shared() -> Host:
    def cards(begin: float) -> list[FakeGpu]:
        # Power changes only while tasks overlap, so that what they share is seen and the edges of the whole are no question.
        changes = ((1.2, HIGH_WATTS), (1.9, LOW_WATTS), (2.4, HIGH_WATTS), (3.1, LOW_WATTS))
        power = ((0.0, LOW_WATTS), *((begin + at, watts) for at, watts in changes))
        return [FakeGpu(power=power, uuid=uuid("shared", gpu), phase=0.03 * gpu) for gpu in (0, 1)]

    def one(host: Host, run: Run, name: str) -> None:
        start, end = OVERLAPPING[name]
        host.wait_for(start)
        with run.task(name) as task:
            if name == "c":
                host.wait_for((start + end) / 2)
            if name != "d":
                _call_until(host, task, end - 0.03)
            host.wait_for(end)

    def work(host: Host) -> None:
        with host.run() as run:
            threads = [threading.Thread(target=one, args=(host, run, name)) for name in OVERLAPPING]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            host.task(run, *AFTERWARDS)

    return Host("shared", cards, work)


def _call_until(host: Host, task: Task, end: float) -> None:
    with task.call() as call:
        host.wait_for(end)
        call.finish(prompt_tokens=10, completion_tokens=20)


# --- a card that somebody else uses too --------------------------------------------------------------------------------

OTHERS, OTHERS_NAME = 4_111_111, "/opt/game/bin/game"
OTHERS_TIME = (2.6, 5.2)
BESIDE_OTHERS = {"alone": (0.2, 2.2), "beside": (2.8, 5.0), "after": (6.2, 8.4)}


def foreign() -> Host:
    """A program that is no model server uses the first of two cards for a while; the model server uses both all the time. The
    other card takes its time to say who uses it."""

    def cards(begin: float) -> list[FakeGpu]:
        server = Process(4_111_110, name="/usr/bin/ollama")
        game = Process(OTHERS, begin + OTHERS_TIME[0], begin + OTHERS_TIME[1], 35.0, OTHERS_NAME)
        shared, own = card("foreign", 0), card("foreign", 1)
        stalls = slow(0.05, During(), "nvmlDeviceGetProcessUtilization")
        return [replace(shared, processes=[server, game]), replace(own, processes=[server], faults=[stalls])]

    def work(host: Host) -> None:
        with host.run() as run:
            for name, (start, end) in BESIDE_OTHERS.items():
                host.task(run, name, start, end)
        since = f"{metrics.GPU_FOREIGN_USE.name}{{instance='{host.address}'}} > {host.begin + OTHERS_TIME[1] - 1.0!r}"
        api = PrometheusApi(host.stack.prometheus_url)
        try:
            assert wait_until(lambda: bool(api.query(since)), 30.0), host.look("end").names()
        finally:
            api.close()
        host.look("end")

    return Host("foreign", cards, work)


# --- together ----------------------------------------------------------------------------------------------------------


def all_machines() -> list[Host]:
    return [
        *(zoo(), no_counter(), mute(), bare(), *drivers()),
        *(restarted(RESTARTED), restarted(RESTARTED_POWER, *NO_COUNTER)),
        *(stepped(FORWARD, 5.0), stepped(BACK, -5.0)),
        *(stepped_exporter(EXPORTER_FORWARD, 5.0), stepped_exporter(EXPORTER_BACK, -5.0)),
        stepped_exporter(BOTH_FORWARD, 5.0, with_benchmark=True),
        shared(),
        foreign(),
    ]


def one_task(host: Host, end: float = 2.4) -> None:
    with host.run() as run:
        host.task(run, "one", 0.2, end, lambda: _look_at(host, end - 0.2, "inside"))


def _look_at(host: Host, seconds: float, moment: str) -> None:
    host.wait_for(seconds)
    host.look(moment)


def _during(begin: float, span: tuple[float, float]) -> During:
    return During(begin + span[0], begin + span[1])
