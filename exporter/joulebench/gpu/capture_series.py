"""One card polled fast for some seconds: what each poll cost, when its counter moved, and whether its power agrees.

Pure: times and readings come from outside. Nothing is claimed of what was not seen: without a counter there is no step, and
without two of its changes no energy.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median, quantiles

from joulebench.gpu.capture_format import EnergyCapture, Spread
from joulebench.gpu.reading import FastReading


def microseconds(seconds: Sequence[float]) -> Spread | None:
    return spread([one * 1e6 for one in seconds], 2)


def spread(values: Sequence[float], digits: int) -> Spread | None:
    """None for too few values to say."""
    if len(values) < 2:
        return None
    twentieths = quantiles(values, n=20, method="inclusive")
    return Spread(*(round(value, digits) for value in (median(values), twentieths[0], twentieths[-1])))


class Series:
    """``observe`` takes each poll; ``slow_costs`` and ``fail`` what else happened meanwhile."""

    def __init__(self, begun_at: float) -> None:
        self.slow_costs: list[float] = []
        self._begun_at = begun_at
        self._costs: list[float] = []
        self._ended_at = begun_at
        self._failures: dict[str, int] = {}
        self._last: FastReading | None = None
        self._power: tuple[float, float] | None = None
        self._integral = 0.0
        # Of each change: when, joules and watts then, and the integral of power up to it.
        self._changes: list[tuple[float, float | None, float | None, float]] = []

    def fail(self, at: float, message: str) -> None:
        self._ended_at = at
        self._failures[message] = self._failures.get(message, 0) + 1

    def observe(self, before: float, after: float, reading: FastReading) -> None:
        self._costs.append(after - before)
        self._ended_at = after
        at = (before + after) / 2
        if reading.power is not None:
            if self._power is not None:
                self._integral += (self._power[1] + reading.power) / 2 * (at - self._power[0])
            self._power = (at, reading.power)
        last, self._last = self._last, reading
        moved = last is not None and (
            reading.energy != last.energy if reading.energy is not None else reading.power != last.power
        )
        if moved:
            self._changes.append((at, reading.energy, reading.power, self._integral))

    def capture(self) -> EnergyCapture:
        counted = [(at, joules, integral) for at, joules, _, integral in self._changes if joules is not None]
        spent = counted[-1][1] - counted[0][1] if len(counted) > 1 else None
        # Over a gap the counter went on and the integral did not.
        whole = self._power is not None and not self._failures
        expected = counted[-1][2] - counted[0][2] if len(counted) > 1 and whole else None
        seconds = self._ended_at - self._begun_at
        polls = len(self._costs) + sum(self._failures.values())
        return EnergyCapture(
            seconds=round(seconds, 3),
            polls=polls,
            poll_seconds=round(seconds / polls, 5) if polls else 0.0,
            changes=len(counted),
            step_seconds=spread([later[0] - earlier[0] for earlier, later in pairwise(counted)], 5),
            counter_joules=None if spent is None else round(spent, 3),
            power_joules=None if expected is None else round(expected, 3),
            ratio=round(spent / expected, 4) if spent is not None and expected else None,
            fast_read_microseconds=microseconds(self._costs),
            slow_read_microseconds=microseconds(self.slow_costs),
            failures=[f"{count} times: {message}" for message, count in self._failures.items()],
            series=[(round(at - self._begun_at, 4), joules, watts) for at, joules, watts, _ in self._changes],
        )
