"""One GPU's energy over time, from polls: when its counter changed, how far apart the changes are, or power integrated.

A change lies between the last poll that read the old value and the first that read the new one. It is recorded where the
counter's update period puts it in that interval, and its uncertainty reaches to the further end of the interval: a bound, no
estimate. Times are monotonic seconds. A value that was not read is a gap: it widens the next interval and is never a reading.
Counters step every 20 to 100 ms (Zeus, Alumet); split edges need the time of the steps (Yang, Adamek, Armour, arXiv 2312.02741).

A reading has to be possible: since its last change a counter has grown by no less than nothing and by no more than the GPU's
highest power allows. A reading outside of that is a candidate for a new epoch. It becomes one when later readings go on from
it for ``CONFIRM_SECONDS``; when the counter jumps back to its curve before, it was a glitch and nothing happened.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from statistics import fmean, median
from typing import NamedTuple

from joulebench.energy.trace import CounterTrace
from joulebench.gpu.plausibility import DEFAULT_POWER_CEILING
from joulebench.gpu.update_period import UpdatePeriodEstimator
from joulebench.units import Joules, Ratio, Seconds, Watts

log = logging.getLogger(__name__)

COUNTER, POWER, NONE = "counter", "power_integration", "none"

MIN_SPACING = 0.045
"""Changes closer than this are not all recorded: GPUs that step every 20 ms would fill the ring in a third of its time."""
POINTS_PER_SECOND = 20.0
PROBE_SECONDS = 1.0
"""A GPU that shows power but no counter for this long has none."""
INTEGRATION_STEP = 0.1
INTEGRATION_GAP = 1.0
LONGEST_UNRECORDED = 0.15
"""Seconds after which a change is recorded also where it is not certain which of several updates it was."""
STEP_DISTANCES = 64
STEPS_LEARNED = 5
LONGEST_STEP, LEAST_LONGEST_STEP = 1.5, 0.05
"""No step is longer than this many usual ones, however long the counter was not read; or than these seconds, if that is more."""

STEP_SLACK = 0.25
"""Seconds of energy that a counter may report late, at least: one step."""
CONFIRM_SECONDS = 5.0
HISTORY_SECONDS = 10.0
"""How far back a jump may be recognized as the glitch, once the counter has fallen back from it."""
JUMPED_SHARE = 0.5
"""Of a fall of the counter, by which a step before it stands out if the counter jumped there."""
MAX_GLITCH_SPANS = 1024

STALL_SECONDS = 5.0
"""A counter that stands still for this long while at least ``STALL_WATTS`` flow has stalled."""
STALL_WATTS = 10.0
MAX_STALL_POINTS = 600

CHECK_SECONDS = 10.0
"""Least time that counter and power are compared over."""
CHECK_GAP_SECONDS = 0.5
"""Between two power readings; a longer gap restarts the comparison."""
TRUSTED_RATIO = (0.9, 1.1)


class EnergySample(NamedTuple):
    joules: Joules
    at: float
    uncertainty: Seconds


class CounterPoll(NamedTuple):
    """A counter value and the times before and after its read."""

    before: float
    after: float
    joules: Joules


@dataclass
class _Track:
    """Readings that go on from each other. ``unchanged_at``: last read of the latest value; ``changed_at``: its earliest time.

    ``polls``: the readings of a candidate, to be recorded if it becomes an epoch; ``lowest``: the lowest of them and of the
    candidates before it; ``fits_both``: whether any of them can have gone on from the main track too.
    """

    joules: Joules
    unchanged_at: float
    changed_at: float
    polls: list[CounterPoll] = field(default_factory=list)
    lowest: float = inf
    fits_both: bool = False

    def __post_init__(self) -> None:
        self.lowest = min(self.lowest, self.joules)

    def fits(self, poll: CounterPoll, ceiling: float, slack: float) -> bool:
        """Whether the counter can have grown from this track's latest value to that of ``poll``."""
        return self.joules <= poll.joules <= self.joules + ceiling * (poll.after - self.changed_at + slack)

    def add(self, poll: CounterPoll) -> None:
        if poll.joules != self.joules:
            self.changed_at = self.unchanged_at
        self.joules, self.unchanged_at = poll.joules, poll.before


class EnergyMeter:
    """``method`` is chosen by the first counter value, or after ``PROBE_SECONDS`` without one; a counter that stalls hands over
    to power integration for good. ``ceiling``: watts above which the GPU cannot draw; None where its limits are unknown.

    ``glitches``: counter readings that were impossible. ``name``: of the GPU, for the log. ``longest_update``: longest time for
    which the counter is known to repeat a value; None where that is not known.
    """

    def __init__(
        self, ring_seconds: float, ceiling: float | None = None, name: str = "GPU", *, longest_update: Seconds | None = None
    ) -> None:
        self.trace = CounterTrace(capacity=max(int(ring_seconds * POINTS_PER_SECOND), 64))
        self.crosscheck = CrossCheck()
        self.method = NONE
        self.step: Seconds | None = None
        self.latest: EnergySample | None = None
        self.third_latest_at: float | None = None
        self.glitches = 0
        self.stalled_at: float | None = None
        self._name = name
        self._ceiling = DEFAULT_POWER_CEILING if ceiling is None else ceiling
        self._ring_seconds = ring_seconds
        self._longest_update = longest_update
        self._last_three: deque[float] = deque(maxlen=3)
        self._first_at: float | None = None
        # The counter: the readings that were taken in, and those that may be a new epoch.
        self._main: _Track | None = None
        self._candidate: _Track | None = None
        self._glitch_spans: deque[tuple[float, float]] = deque(maxlen=MAX_GLITCH_SPANS)
        # Added to the counter before it is recorded, so that an epoch after a jump upwards falls too.
        self._offset = 0.0
        self._recent: deque[EnergySample] = deque()
        self._changed_at: float | None = None
        self._distances: deque[float] = deque(maxlen=STEP_DISTANCES)
        self._changes = 0
        self._period = UpdatePeriodEstimator()
        # Integrated power, and what it was at the counter's last change and since then.
        self._power: tuple[float, Watts] | None = None
        self._integral = 0.0
        self._integral_at_change = 0.0
        self._integrals: deque[tuple[float, float]] = deque()

    def observe(self, before: float, after: float, energy: Joules | None, power: Watts | None) -> None:
        """Takes in one poll that was sent at ``before`` and answered at ``after``."""
        at = (before + after) / 2
        if self._first_at is None:
            self._first_at = before
        if self.method == NONE:
            self._choose_method(before, energy, power)
        if self.method == COUNTER:
            if power is not None:
                if self.crosscheck.ratio is None:
                    self.crosscheck.power(at, power)
                self._watch_power(at, power)
            if energy is not None:
                self._observe_counter(CounterPoll(before, after, energy))
        elif self.method == POWER and power is not None:
            self._integrate(at, power)

    def observe_again(self, before: float, after: float, power: Watts) -> bool:
        """Takes in one more poll of the energy and power of the last one, as ``observe`` does.

        Returns False, and takes in nothing, where that is not all: a counter that is not the method, or one that is in question.
        """
        main = self._main
        if self.method != COUNTER or main is None or self._candidate is not None:
            return False
        at = (before + after) / 2
        if self.crosscheck.ratio is None:
            self.crosscheck.power(at, power)
        self._watch_power(at, power)
        main.unchanged_at = before
        if before - main.changed_at >= STALL_SECONDS:
            self._watch_stall(before)
        return True

    def can_change(self, now: float) -> bool:
        """Whether energy can be expected: not of a GPU that shows neither counter nor power, or whose counter never moved."""
        if self.latest is not None or self._first_at is None:
            return True
        return now - self._first_at < (STALL_SECONDS if self.method == COUNTER else 2 * PROBE_SECONDS)

    @property
    def accepted(self) -> Joules | None:
        """The last counter value that was possible; None before the first."""
        return None if self._main is None else self._main.joules

    def has_glitch(self, start: float, end: float) -> bool:
        """Whether a glitch may have touched a window between two monotonic times."""
        if self._candidate is not None and self._main is not None and end >= self._main.changed_at:
            return True
        return any(first <= end and start <= last for first, last in self._glitch_spans)

    def method_at(self, end: float) -> str:
        """The method behind the energy of a window that ends then."""
        return COUNTER if self.stalled_at is not None and end <= self.stalled_at else self.method

    def _choose_method(self, now: float, energy: Joules | None, power: Watts | None) -> None:
        if energy is not None:
            self.method = COUNTER
        elif power is not None and self._first_at is not None and now - self._first_at >= PROBE_SECONDS:
            self.method = POWER

    # --- the counter ---------------------------------------------------------------------------------------------------

    def _observe_counter(self, poll: CounterPoll) -> None:
        main, candidate = self._main, self._candidate
        if main is None:
            self._main = _Track(poll.joules, poll.before, poll.before)
            return
        fits_main = self._fits(main, poll)
        if candidate is None:
            if fits_main:
                self._take_in(poll)
            else:
                self._candidate = _Track(poll.joules, poll.before, poll.before, [poll])
            return
        continues = self._fits(candidate, poll)
        if continues:
            candidate.add(poll)
            candidate.polls.append(poll)
            candidate.fits_both |= fits_main
            if poll.after - candidate.polls[0].before >= CONFIRM_SECONDS:
                self._confirm(candidate)
        else:
            self.glitches += len(candidate.polls)
            self._mark_glitch(main.unchanged_at, poll.after)
            self._candidate = None
            if fits_main:
                # The counter is where it could be without the candidate's readings: nothing happened.
                self._take_in(poll)
            else:
                lowest = min(candidate.lowest, poll.joules)
                self._candidate = _Track(poll.joules, poll.before, poll.before, [poll], lowest=lowest)

    def _fits(self, track: _Track, poll: CounterPoll) -> bool:
        slack = STEP_SLACK if self.step is None else max(STEP_SLACK, 1.5 * self.step)
        return track.fits(poll, self._ceiling, slack)

    def _confirm(self, candidate: _Track) -> None:
        """The candidate stayed: a new epoch, or the end of a small fall or of a jump that the counter fell back from.

        Where it fell to where it has been within the last seconds, and a step shows that it jumped, which of its readings were
        wrong is unknown, so none of them counts: recent points above and since the jump are taken back, and the counter goes on
        from the points before them with its latest reading. Without a jump, the fall took joules away that were used.
        """
        assert self._main is not None
        self._candidate = None
        lowest, latest = candidate.lowest, candidate.polls[-1]
        since = self._main.unchanged_at
        if candidate.polls[0].joules >= self._main.joules:
            self.glitches += 1
            self._mark_glitch(since, candidate.polls[0].after)
            self._begin_epoch(candidate.polls)
            return
        jumped_at = self._find_jump(self._main.joules - lowest, candidate.polls)
        base = None if jumped_at is None else self._retract_above(lowest, jumped_at)
        if base is None:
            # A counter that began anew; where it grew so fast that it may have returned instead, only its end is known.
            self._begin_epoch(candidate.polls[-1:] if candidate.fits_both else candidate.polls)
            return
        self.glitches += 1
        self._mark_glitch(base.at, latest.after)
        self._main = _Track(base.joules, base.at - base.uncertainty, base.at - base.uncertainty)
        self._restart_learning()
        self._take_in(latest)

    def _find_jump(self, fall: float, polls: Sequence[CounterPoll]) -> float | None:
        """Returns the time before the step, before a fall by these joules or in the polls after it, that rose so much more than
        the others that the counter jumped and fell back, or fell and jumped back. None where all rose alike: then the fall took
        joules away that were used."""
        before_fall = [(sample.at, sample.joules) for sample in self._recent]
        after_fall = [
            (poll.after, poll.joules) for poll, last in zip(polls[1:], polls, strict=False) if poll.joules != last.joules
        ]
        steps = [(a, b) for points in (before_fall, after_fall) for a, b in pairwise(points) if b[0] > a[0]]
        if not steps:
            return None
        usual = median((b[1] - a[1]) / (b[0] - a[0]) for a, b in steps)
        excess, at = max((b[1] - a[1] - usual * (b[0] - a[0]), a[0]) for a, b in steps)
        return at if excess >= JUMPED_SHARE * fall else None

    def _retract_above(self, joules: float, at: float) -> EnergySample | None:
        """Takes back recent points above ``joules`` or later than ``at``. Returns the last point before them, None where there
        is none."""
        base = next((sample for sample in reversed(self._recent) if sample.joules <= joules and sample.at <= at), None)
        if base is None:
            return None
        self.trace.retract(base.at)
        while self._recent[-1].at > base.at:
            self._recent.pop()
        self.latest = base
        self._last_three.clear()
        self._last_three.extend([sample.at for sample in self._recent][-3:])
        self.third_latest_at = self._last_three[0] if len(self._last_three) == 3 else None
        return base

    def _begin_epoch(self, polls: Sequence[CounterPoll]) -> None:
        """Records the first readings of a new epoch. What was used since the last point is unknown."""
        assert self._main is not None
        first = polls[0]
        since = self._main.unchanged_at
        if self.step is not None:
            since = max(since, first.after - max(LONGEST_STEP * self.step, LEAST_LONGEST_STEP))
        if self.latest is not None and first.joules >= self.latest.joules:
            # After a jump upwards: shifted so that it is recorded as a fall, which begins an epoch.
            self._offset += self.latest.joules - 1.0 - first.joules
        self._recent.clear()
        self._restart_learning()
        self._main = _Track(first.joules, first.before, since)
        self._record((since + first.after) / 2, first.joules, (first.after - since) / 2)
        for poll in polls[1:]:
            self._take_in(poll)

    def _restart_learning(self) -> None:
        self.crosscheck.restart()
        self._changed_at = None

    def _mark_glitch(self, start: float, end: float) -> None:
        step = STEP_SLACK if self.step is None else self.step
        self._glitch_spans.append((start - step, end + step))

    def _take_in(self, poll: CounterPoll) -> None:
        """Takes in a reading that goes on from the last one."""
        main = self._main
        assert main is not None
        if poll.joules == main.joules:
            main.unchanged_at = poll.before
            self._watch_stall(poll.before)
            return
        since = main.unchanged_at
        if self.step is not None:
            since = max(since, poll.after - max(LONGEST_STEP * self.step, LEAST_LONGEST_STEP))
        if self._longest_update is not None:
            since = max(since, poll.before - self._longest_update)
        at, is_certain = self._period.estimate(since, poll.after, poll.joules)
        uncertainty = max(at - since, poll.after - at)
        if self._changed_at is not None:
            self._learn_step(at - self._changed_at)
        self._changed_at = at
        main.add(poll)
        self._integral_at_change = self._integral
        self._integrals.clear()
        if self.crosscheck.ratio is None:
            self.crosscheck.change(at, poll.joules)
        if self.latest is None or at - self.latest.at >= (MIN_SPACING if is_certain else LONGEST_UNRECORDED):
            self._record(at, poll.joules, uncertainty)

    def _learn_step(self, distance: float) -> None:
        self._distances.append(distance)
        self._changes += 1
        if self._changes < STEPS_LEARNED or (self._changes > STEP_DISTANCES and self._changes % STEP_DISTANCES):
            return
        # The median leaves out missed changes; the mean around it is finer than the poll period.
        middle = median(self._distances)
        period = self._period.period
        usual = [distance for distance in self._distances if 0.5 * middle <= distance <= 1.5 * middle]
        self.step = Seconds(period or fmean(usual or [middle]))

    # --- power ---------------------------------------------------------------------------------------------------------

    def mark_power_glitch(self, start: float, end: float) -> None:
        """Marks the power between two monotonic times as no reading, of which some was taken for one."""
        if self._glitch_spans and self._glitch_spans[-1][0] == start - STEP_SLACK:
            self._glitch_spans.pop()
        self._glitch_spans.append((start - STEP_SLACK, end + STEP_SLACK))

    def _watch_power(self, at: float, watts: Watts) -> None:
        """Integrates power beside the counter, for the case that the counter stalls."""
        if self._power is not None and at - self._power[0] <= INTEGRATION_GAP:
            self._integral += (self._power[1] + watts) / 2 * (at - self._power[0])
            if not self._integrals or at - self._integrals[-1][0] >= INTEGRATION_STEP - 1e-3:
                self._integrals.append((at, self._integral))
                if len(self._integrals) > MAX_STALL_POINTS:
                    # The counter stands still while little power flows, as that of a sleeping GPU.
                    self._integral_at_change = self._integrals.popleft()[1]
        else:
            self._integral_at_change = self._integral
            self._integrals.clear()
        self._power = (at, watts)

    def _watch_stall(self, now: float) -> None:
        """Hands over to power integration where the counter stands still while power flows."""
        main = self._main
        if main is None or not self._integrals:
            return
        since = max(main.changed_at, self._integrals[0][0])
        spent = self._integral - self._integral_at_change
        patience = STALL_SECONDS if self.step is None else max(STALL_SECONDS, 5 * self.step)
        if now - since < patience or spent < STALL_WATTS * (now - since):
            return
        log.warning(
            "%s: the energy counter stands still at %.0f J while %.0f W flow; power is integrated from now on",
            self._name,
            main.joules,
            spent / (now - since),
        )
        self.method = POWER
        self.stalled_at = self.latest.at if self.latest is not None else main.changed_at
        start = self._integral_at_change - main.joules
        points = list(self._integrals)
        self._integral -= start
        for at, integral in points:
            if self.latest is None or at > self.latest.at:
                self._record(at, Joules(integral - start), INTEGRATION_STEP)
        self.step = Seconds(INTEGRATION_STEP)

    def _integrate(self, at: float, watts: Watts) -> None:
        if self._power is None:
            self._power = (at, watts)
            self._record(at, Joules(self._integral), 0.0)
            return
        span = at - self._power[0]
        if span > INTEGRATION_GAP:
            # What was used meanwhile is unknown: a new epoch says so, a bridge would not.
            self._integral = 0.0
        else:
            self._integral += (self._power[1] + watts) / 2 * span
        self._power = (at, watts)
        if self.latest is None or span > INTEGRATION_GAP or at - self.latest.at >= INTEGRATION_STEP - 1e-3:
            self._record(at, Joules(self._integral), span / 2)
            self.step = Seconds(INTEGRATION_STEP)

    def _record(self, at: float, joules: Joules, uncertainty: float) -> None:
        self.trace.append(at, joules + self._offset, uncertainty)
        self._last_three.append(at)
        self.third_latest_at = self._last_three[0] if len(self._last_three) == 3 else None
        self.latest = EnergySample(joules, at, Seconds(uncertainty))
        self._recent.append(self.latest)
        while self._recent[0].at < at - HISTORY_SECONDS:
            self._recent.popleft()


class CrossCheck:
    """Compares the energy counter with the power that the same GPU shows, once after start.

    There are GPUs whose counter runs at half speed and GPUs whose power reading is off (ml-energy/zeus #181: 187 J against
    327 J over 5 s); only a comparison shows either. ``ratio``: counter joules by integrated power joules, from one counter
    change to another at least ``CHECK_SECONDS`` later; None until then.
    """

    def __init__(self) -> None:
        self.ratio: Ratio | None = None
        self._power: tuple[float, float] | None = None
        self._integral = 0.0
        self._begun: tuple[float, float, float] | None = None

    @property
    def disagrees(self) -> bool:
        return self.ratio is not None and not TRUSTED_RATIO[0] <= self.ratio <= TRUSTED_RATIO[1]

    def power(self, at: float, watts: float) -> None:
        if self._power is not None:
            span = at - self._power[0]
            if span > CHECK_GAP_SECONDS:
                self.restart()
            self._integral += (self._power[1] + watts) / 2 * span
        self._power = (at, watts)

    def change(self, at: float, joules: float) -> None:
        """The counter changed to ``joules`` at ``at``, which is not after the last power reading's time."""
        if self._power is None:
            return
        if at - self._power[0] > CHECK_GAP_SECONDS:
            self.restart()
            return
        integral = self._integral - self._power[1] * (self._power[0] - at)
        if self._begun is None:
            self._begun = (at, joules, integral)
            return
        spent, expected = joules - self._begun[1], integral - self._begun[2]
        if spent < 0:
            self.restart()
        elif at - self._begun[0] >= CHECK_SECONDS and expected > 0:
            self.ratio = Ratio(spent / expected)

    def restart(self) -> None:
        self._begun = None

    def withdraw(self) -> None:
        """Takes back the ratio: the power that it was made with was no reading."""
        self.ratio = None
        self.restart()
