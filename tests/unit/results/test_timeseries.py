"""Gauges and cumulative counters over windows, by hand; counters of two jobs as one trace."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from joulebench import metrics
from joulebench.clients.matrix import Column, column_of_points
from joulebench.energy.curve import EnergyCurve
from joulebench.results import throttle
from joulebench.results.fetch import GpuSamples, chunks, counter_curve, has_hole, match_counter_changes, merge_jobs, union
from joulebench.results.gpu_stats import throttled_by_reason
from joulebench.results.timeseries import TimeSeries, combine, gauge_stats, increase, increases, mean_of_rows, window_means
from joulebench.schema.result import GaugeStats


def stats(points: list[tuple[float, float]], start: float, end: float) -> GaugeStats | None:
    return gauge_stats([TimeSeries.of(points)], [(start, end)])[0][0]


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


def test_gpus_combine_where_every_one_has_a_sample() -> None:
    one, other = TimeSeries.of([(1.0, 10.0), (2.0, 20.0), (3.0, 30.0)]), TimeSeries.of([(1.0, 1.0), (3.0, 3.0)])
    assert list(combine([one, other], np.add.reduce)) == [(1.0, 11.0), (3.0, 33.0)]
    assert list(combine([one, other], mean_of_rows)) == [(1.0, 5.5), (3.0, 16.5)]
    assert combine([one], np.maximum.reduce) is one
    assert list(combine([], np.maximum.reduce)) == []
    even = TimeSeries(one.at, np.ones(3))
    assert list(combine([one, even], np.add.reduce)) == [(1.0, 11.0), (2.0, 21.0), (3.0, 31.0)]


def test_many_windows_at_once_are_as_many_one_by_one() -> None:
    random = Random(1)
    at = np.cumsum([random.choice((1.0, 1.0, 0.2, 7.0)) for _ in range(500)])
    series = [TimeSeries(at, np.array([random.uniform(0, 9) for _ in at])) for _ in range(2)]
    starts = [random.uniform(-5, at[-1] + 5) for _ in range(200)]
    windows = [(start, start + random.choice((0.0, 0.5, 30.0, 300.0))) for start in starts]
    for one, found in zip(series, gauge_stats(series, windows), strict=True):
        assert found == [gauge_stats([one], [window])[0][0] for window in windows]
        assert increases(one, windows) == [increase(one, *window) for window in windows]
        assert window_means(one, windows) == [stats and stats.mean for stats in found]


def test_a_counter_grows_by_its_share_of_the_edge_steps() -> None:
    points = TimeSeries.of([(0.0, 100.0), (10.0, 100.0), (20.0, 105.0), (30.0, 1.0), (40.0, 1.0)])
    assert increase(points, 0.0, 40.0) == pytest.approx(6.0)
    assert increase(points, 15.0, 40.0) == pytest.approx(3.5)
    assert increase(points, 12.0, 14.0) == pytest.approx(1.0)
    assert increase(points, 0.0, 41.0) is None
    assert increase(points, -1.0, 5.0) is None
    assert increase(TimeSeries.of([(1.0, 1.0)]), 1.0, 1.0) is None


def test_throttling_is_zero_only_where_the_gpu_was_seen() -> None:
    gpu = GpuSamples("0", "u")
    for reason in metrics.THROTTLE_REASONS:
        gpu.throttle[reason] = TimeSeries.of([(0.0, 5.0), (50.0, 5.0 + 2 * (reason == "sw_power_cap"))])
    assert throttle.throttled_seconds(throttled_by_reason(gpu, [(10.0, 20.0)])[0]) is None
    seen = [(float(t), 60.0) for t in range(51)]
    gpu.gauges[metrics.GPU_TEMPERATURE.name] = TimeSeries.of(seen)
    found = throttled_by_reason(gpu, [(10.0, 20.0)])[0]
    assert found["sw_power_cap"] == pytest.approx(0.4)
    assert throttle.throttled_seconds(found) == 0.0
    gpu.gauges[metrics.GPU_TEMPERATURE.name] = TimeSeries.of(seen[:5] + seen[45:])
    assert throttle.throttled_seconds(throttled_by_reason(gpu, [(10.0, 20.0)])[0]) is None


def test_padded_windows_merge_and_are_cut_in_chunks() -> None:
    merged = union([(100.0, 110.0), (0.0, 5.0), (70.0, 85.0)], pad=10.0)
    assert merged == [(-10.0, 15.0), (60.0, 120.0)]
    assert list(chunks(merged, 40.0)) == [(-10.0, 15.0), (60.0, 100.0), (100.0, 120.0)]
    assert union([]) == []


def series(job: str, points: list[tuple[float, float]]) -> Column:
    return column_of_points({"job": job, "instance": "i", "gpu": "0", "uuid": "u"}, points)


def curve_of(counters: list[Column], times: list[Column], slacks: list[Column]) -> EnergyCurve:
    return counter_curve([merge_jobs([changes for _, changes in match_counter_changes(counters, times, slacks)])], 1e9)


def test_two_jobs_that_scrape_one_counter_make_one_trace() -> None:
    fast = [(1.0, 10.0), (1.25, 20.0), (1.5, 30.0)]
    slow = [(1.0, 10.0), (1.26, 20.0), (9.0, 99.0)]
    moments = {10.0: 0.951, 20.0: 1.203, 30.0: 1.454}
    times = [series("fast", [(t, moments[v]) for t, v in fast]), series("slow", [(t, moments[v]) for t, v in slow[:2]])]
    curve = curve_of([series("fast", fast), series("slow", slow)], times, [])
    assert list(curve.at) == [0.951, 1.203, 1.454]
    assert list(curve.joules) == [10.0, 20.0, 30.0]


def test_a_store_that_rounds_unix_times_widens_the_bounds() -> None:
    for moment, expected in ((1_700_000_000.12, 0.015), (1_700_000_000.123, 0.01)):
        at = 1_700_000_001.0
        curve = curve_of([series("a", [(at, 5.0)])], [series("a", [(at, moment)])], [series("a", [(at, 0.01)])])
        assert curve.uncertainty[0] == pytest.approx(expected, rel=1e-4)


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


def test_parts_of_a_series_are_joined_and_the_last_value_of_a_moment_counts() -> None:
    points = [(1.0, 10.0), (2.0, 20.0), (4.0, 0.0)]
    series = TimeSeries.of(points)
    assert list(series) == points
    assert list(series.between(1.5, 4.0)) == points[1:]
    assert list(TimeSeries.joined([series, TimeSeries.of([(5.0, 1.0)])])) == [*points, (5.0, 1.0)]
    early = TimeSeries.of([(3.0, 7.0), (4.0, 8.0)])
    assert list(TimeSeries.joined([early, series])) == [*points[:2], (3.0, 7.0), (4.0, 0.0)]
    late = TimeSeries.of([(4.0, 7.0), (5.0, 1.0)])
    assert list(TimeSeries.joined([series, late])) == [*points[:2], (4.0, 7.0), (5.0, 1.0)]
    assert list(TimeSeries.joined([])) == []
