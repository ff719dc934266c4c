"""A GPU whose energy is known exactly: power in pieces, a counter that steps, a meter that polls it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from math import floor
from random import Random

import numpy as np

from joulebench.energy.trace import CounterTrace
from joulebench.gpu.energy_meter import EnergyMeter
from joulebench.units import Joules

START = 1_700_000_000.0


@dataclass
class Machine:
    """Power by pieces: ``watts[i]`` from ``times[i]`` until ``times[i + 1]``. ``turns``: LLM calls; ``tasks``: runs of them."""

    times: list[float]
    watts: list[float]
    turns: list[tuple[float, float]] = field(default_factory=list)
    tasks: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        pieces = [w * (b - a) for w, a, b in zip(self.watts, self.times, self.times[1:], strict=False)]
        self._energy = [0.0, *accumulate(pieces)]

    def energy(self, time: float) -> float:
        index = min(bisect_right(self.times, time) - 1, len(self.watts) - 1)
        return self._energy[index] + self.watts[index] * (time - self.times[index])

    def between(self, start: float, end: float) -> float:
        return self.energy(end) - self.energy(start)


def agent_runs(random: Random, seconds: float) -> Machine:
    """Tasks of a few turns, each prefill then decode, with tool waits between them and idle between tasks."""
    times, watts = [START], [62.0]
    turns: list[tuple[float, float]] = []
    tasks: list[tuple[float, float]] = []
    now = START + 3.0

    def piece(power: float, length: float) -> None:
        nonlocal now
        times.append(now)
        watts.append(power)
        now += length

    while now < START + seconds:
        task_start = now
        for _ in range(random.randint(1, 5)):
            turn_start = now
            piece(random.uniform(300, 360), random.uniform(0.03, 0.25))
            decode_end = now + 0.12 * (25.0 ** random.random())
            while now < decode_end:
                piece(random.uniform(255, 285), min(0.3, max(decode_end - now, 0.001)))
            turns.append((turn_start, now))
            piece(95.0, random.uniform(0.05, 0.8))
        tasks.append((task_start, now))
        piece(62.0, random.uniform(0.4, 2.0))
    times.append(now)
    watts.append(62.0)
    return Machine([*times, now + 10.0], watts, turns, tasks)


def random_power(random: Random, seconds: float) -> Machine:
    """Power that obeys nothing: jumps between 0 and 700 W after 1 ms to 3 s."""
    times, now = [START], START
    while now < START + seconds:
        now += 0.001 * 3000.0 ** random.random()
        times.append(now)
    return Machine(times, [random.choice([0.0, 60.0, random.uniform(0, 700)]) for _ in times[1:]])


@dataclass(frozen=True)
class Timers:
    """Seconds. ``step``: between two updates of the counter, which ``update_jitter`` makes early or late (standard deviation);
    ``lag``: by which it shows energy later than it is used. ``poll``: between two polls, each up to ``poll_jitter`` late."""

    step: float
    update_jitter: float = 0.0
    lag: float = 0.0
    poll: float = 0.02
    poll_jitter: float = 0.004


EXPORTER_POLL = 0.0193
"""Seconds between two polls of the exporter's thread."""


def metered(machine: Machine, random: Random, step: float) -> CounterTrace:
    return meter(machine, random, Timers(step)).trace


def meter(machine: Machine, random: Random, timers: Timers) -> EnergyMeter:
    """The exporter's meter of a counter in whole mJ, after it has polled all of the machine's time."""
    energy_meter = EnergyMeter(machine.times[-1] - START)
    now, end = START + timers.step * 2, machine.times[-1] - 1.0
    update = START + random.uniform(0, timers.step)
    due, latest, following = now, update, update
    while now < end:
        while following <= now:
            latest, update = following, update + timers.step
            following = max(update + random.gauss(0.0, timers.update_jitter), latest)
        joules = floor(machine.energy(latest - timers.lag) * 1000) / 1000
        energy_meter.observe(now, now, Joules(joules + 1000.0), None)
        due += timers.poll
        now = max(due + random.uniform(0, timers.poll_jitter), now + 1e-4)
    return energy_meter


def scraped(machine: Machine, random: Random, step: float, interval: float) -> CounterTrace:
    """What is left in Prometheus of ``metered``: the newest change at each scrape."""
    full = metered(machine, random, step)
    view = full.curve()
    thin = CounterTrace()
    scrape = START + random.uniform(1, 1 + interval)
    while scrape < view.at[-1]:
        index = int(np.searchsorted(view.at, scrape - 0.02, "right")) - 1
        if index >= 0:
            thin.append(float(view.at[index]), float(view.joules[index]), float(view.uncertainty[index]))
        scrape += interval + random.uniform(0, 0.003)
    return thin
