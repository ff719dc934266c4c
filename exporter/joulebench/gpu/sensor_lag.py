"""Learns from the windows that an exporter is asked for how much later its counter shows energy than it is used."""

from __future__ import annotations

from collections import deque

from joulebench.energy.trace import CounterTrace

REMEMBERED = 64
"""Windows that wait to be looked at, windows beside which they lie, and rises and falls that the lag is learned from."""
LEARNED_TOGETHER = 8
"""Windows that are looked at together, since that costs as much as one."""
READY_AFTER = 3.0
"""Seconds that a counter has to reach beyond a window. Windows that ended beside it have been asked for by then."""
SAME_LAG = 0.03
"""Seconds by which the lag has to differ from what it was, so that adjacent windows keep adding up."""


class SensorLagLearner:
    """Of one GPU. ``seconds``: its lag, 0 while none is known."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._waiting: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self._recent: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)
        self._rises: deque[float] = deque(maxlen=REMEMBERED)
        self._falls: deque[float] = deque(maxlen=REMEMBERED)

    def add(self, start: float, end: float) -> None:
        """Remembers a window (monotonic seconds) until the counter reaches beyond it."""
        if (start, end) not in self._recent:
            self._waiting.append((start, end))
            self._recent.append((start, end))

    def learn(self, trace: CounterTrace, known_until: float) -> bool:
        """Looks at the windows that are known by now. Returns whether the lag changed. Needs numpy, as every window does."""
        ready = [window for window in self._waiting if window[1] + READY_AFTER <= known_until]
        if len(ready) < LEARNED_TOGETHER:
            return False
        from joulebench.energy.lag import HORIZON, edge_delays, learn_sensor_lag

        self._waiting = deque((window for window in self._waiting if window not in ready), maxlen=REMEMBERED)
        first, last = min(start for start, _ in ready), max(end for _, end in ready)
        delays = edge_delays(trace.curve(first - HORIZON, last + READY_AFTER), ready, self._recent)
        self._rises.extend(delays.rises)
        self._falls.extend(delays.falls)
        seconds = learn_sensor_lag(self._rises, self._falls)
        if abs(seconds - self.seconds) <= SAME_LAG:
            return False
        self.seconds = seconds
        return True
