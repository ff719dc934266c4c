"""Which calls of a task were throttled, and how hot the card was then."""

from __future__ import annotations

import pytest

from joulebench.metrics import GPU_TEMPERATURE, GPU_UP, THROTTLE_REASONS
from joulebench.results import throttle
from joulebench.results.fetch import GpuSamples
from joulebench.results.timeseries import TimeSeries


def gpu() -> GpuSamples:
    """Samples of each second from 0 to 20; heat from 5 s to 8 s, at 80 C and later at 90 C."""
    found = GpuSamples("0", "GPU-a")
    seconds = [float(second) for second in range(21)]
    found.gauges[GPU_UP.name] = TimeSeries.of([(at, 1.0) for at in seconds])
    found.gauges[GPU_TEMPERATURE.name] = TimeSeries.of([(at, 80.0 if at < 7 else 90.0) for at in seconds])
    for reason in THROTTLE_REASONS:
        hot = reason in ("hw_thermal", "sw_power_cap")
        found.throttle[reason] = TimeSeries.of([(at, min(max(at - 5.0, 0.0), 3.0) * hot) for at in seconds])
    return found


@pytest.mark.parametrize(
    ("start", "end", "seconds", "hottest"),
    [(1.0, 4.0, 0.0, 80.0), (4.0, 6.5, 1.5, 80.0), (5.5, 7.5, 2.0, 90.0), (10.0, 12.0, 0.0, 90.0)],
)
def test_a_call_has_the_seconds_that_lie_in_it(start: float, end: float, seconds: float, hottest: float) -> None:
    throttled, celsius = throttle.call_throttling([gpu()], start, end, 3.0, {})
    assert throttled == pytest.approx(seconds)
    assert celsius == hottest


@pytest.mark.parametrize("of_task", [0.0, None])
def test_what_is_known_of_the_task_holds_for_its_calls(of_task: float | None) -> None:
    assert throttle.call_throttling([gpu()], 1.0, 4.0, of_task, {}) == (of_task, None)


def test_a_call_that_never_ended_tells_nothing() -> None:
    assert throttle.call_throttling([gpu()], 1.0, None, 3.0, {}) == (None, None)
