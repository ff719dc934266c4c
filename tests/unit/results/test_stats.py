"""Gauges and cumulative counters over a window, by hand."""

from __future__ import annotations

import pytest

from joulebench import metrics
from joulebench.clients.matrix import Column, of_points
from joulebench.energy.trace import CounterTrace
from joulebench.results import samples, throttle
from joulebench.results.energy_samples import add, changes, has_hole
from joulebench.results.gauge_stats import increase, mean, stats, together
from joulebench.results.points import Columns, inside
from joulebench.results.samples import GpuSamples


def test_uneven_samples_weigh_by_time() -> None:
    found = stats([(0.0, 10.0), (1.0, 10.0), (2.0, 40.0), (6.0, 20.0), (9.0, 99.0)], 0.0, 8.0)
    assert found is not None
    # 10 until 1.5, 40 until 4, 20 until 8.
    assert found.mean == pytest.approx((10 * 1.5 + 40 * 2.5 + 20 * 4) / 8)
    assert (found.low, found.high, found.samples, found.longest_gap) == (10.0, 40.0, 4, 4.0)
    assert found.coverage == pytest.approx((1 + 1 + 1 + 1) / 8)


def test_a_window_between_two_samples_has_no_statistics() -> None:
    assert stats([(0.0, 1.0), (1.0, 1.0)], 0.2, 0.8) is None
    assert stats([], 0.0, 1.0) is None
    assert stats([(1.0, 5.0)], 1.0, 1.0) is None


def test_gpus_fold_where_every_one_has_a_sample() -> None:
    one, other = [(1.0, 10.0), (2.0, 20.0), (3.0, 30.0)], [(1.0, 1.0), (3.0, 3.0)]
    assert list(together([one, other], sum)) == [(1.0, 11.0), (3.0, 33.0)]
    assert list(together([one, other], mean)) == [(1.0, 5.5), (3.0, 16.5)]
    assert list(together([one], max)) == one
    assert list(together([], max)) == []
    assert list(together([one, [(t, 1.0) for t, _ in one]], sum)) == [(1.0, 11.0), (2.0, 21.0), (3.0, 31.0)]


def test_a_counter_grows_by_its_share_of_the_edge_steps() -> None:
    points = [(0.0, 100.0), (10.0, 100.0), (20.0, 105.0), (30.0, 1.0), (40.0, 1.0)]
    assert increase(points, 0.0, 40.0) == pytest.approx(6.0)
    assert increase(points, 15.0, 40.0) == pytest.approx(3.5)
    assert increase(points, 12.0, 14.0) == pytest.approx(1.0)
    assert increase(points, 0.0, 41.0) is None
    assert increase(points, -1.0, 5.0) is None
    assert increase([(1.0, 1.0)], 1.0, 1.0) is None


def test_throttling_is_zero_only_where_somebody_looked() -> None:
    gpu = GpuSamples("0", "u")
    for reason in metrics.THROTTLE_REASONS:
        gpu.throttle[reason] = [(0.0, 5.0), (50.0, 5.0 + 2 * (reason == "sw_power_cap"))]
    assert throttle.throttled_seconds(throttle.reasons(gpu, 10.0, 20.0)) is None
    seen = [(float(t), 60.0) for t in range(51)]
    gpu.gauges[metrics.GPU_TEMPERATURE.name] = seen
    found = throttle.reasons(gpu, 10.0, 20.0)
    assert found["sw_power_cap"] == pytest.approx(0.4)
    assert throttle.throttled_seconds(found) == 0.0
    gpu.gauges[metrics.GPU_TEMPERATURE.name] = seen[:5] + seen[45:]
    assert throttle.throttled_seconds(throttle.reasons(gpu, 10.0, 20.0)) is None


def test_padded_windows_merge_and_are_cut_in_chunks() -> None:
    merged = samples.union([(100.0, 110.0), (0.0, 5.0), (70.0, 85.0)], pad=10.0)
    assert merged == [(-10.0, 15.0), (60.0, 120.0)]
    assert list(samples.chunks(merged, 40.0)) == [(-10.0, 15.0), (60.0, 100.0), (100.0, 120.0)]
    assert samples.union([]) == []


def series(job: str, points: list[tuple[float, float]]) -> Column:
    return of_points({"job": job, "instance": "i", "gpu": "0", "uuid": "u"}, points)


def trace_of(counters: list[Column], times: list[Column], slacks: list[Column]) -> CounterTrace:
    trace = CounterTrace()
    add(trace, [one for _, one in changes(counters, times, slacks)])
    return trace


def test_two_jobs_that_scrape_one_counter_make_one_trace() -> None:
    fast = [(1.0, 10.0), (1.25, 20.0), (1.5, 30.0)]
    slow = [(1.0, 10.0), (1.26, 20.0), (9.0, 99.0)]
    moments = {10.0: 0.951, 20.0: 1.203, 30.0: 1.454}
    times = [series("fast", [(t, moments[v]) for t, v in fast]), series("slow", [(t, moments[v]) for t, v in slow[:2]])]
    view = trace_of([series("fast", fast), series("slow", slow)], times, []).view(0.0, 10.0)
    assert list(view.at) == [0.951, 1.203, 1.454]
    assert list(view.joules) == [10.0, 20.0, 30.0]


def test_a_store_that_rounds_unix_times_widens_the_bounds() -> None:
    for moment, expected in ((1_700_000_000.12, 0.015), (1_700_000_000.123, 0.01)):
        at = 1_700_000_001.0
        trace = trace_of([series("a", [(at, 5.0)])], [series("a", [(at, moment)])], [series("a", [(at, 0.01)])])
        assert trace.view(at - 2, at).uncertainty[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("times", "hole"),
    [
        ([float(t) for t in range(11)], False),
        ([float(t) for t in range(11) if t != 5], False),
        ([float(t) for t in range(11) if not 3 < t < 8], True),
        ([float(t) for t in range(4, 11)], True),
        ([float(t) for t in range(7)], True),
        ([5.0], True),
    ],
)
def test_a_hole_in_the_finer_job_is_seen(times: list[float], hole: bool) -> None:
    assert has_hole([series("a", [(t, 1.0) for t in times])], 0.0, 10.0) is hole


def test_columns_are_points() -> None:
    points = [(1.0, 10.0), (2.0, 20.0), (4.0, 0.0)]
    columns = Columns.of(points)
    assert (list(columns), columns[1], columns[-1], list(columns[1:])) == (points, (2.0, 20.0), (4.0, 0.0), points[1:])
    assert list(columns.areas) == [0.0, 15.0, 35.0]
    assert list(inside(columns, 1.5, 4.0)) == list(inside(points, 1.5, 4.0)) == points[1:]
    assert list(Columns.joined([columns, Columns.of([(5.0, 1.0)])])) == [*points, (5.0, 1.0)]
    assert list(Columns.joined([Columns.of([(3.0, 7.0), (4.0, 8.0)]), columns])) == [*points[:2], (3.0, 7.0), (4.0, 0.0)]
    assert list(Columns.joined([columns, Columns.of([(4.0, 7.0), (5.0, 1.0)])])) == [*points[:2], (4.0, 7.0), (5.0, 1.0)]
    assert list(Columns.joined([])) == []
