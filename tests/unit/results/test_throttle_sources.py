"""Throttled seconds from the exporter and from Prometheus: which one counts, and when they cannot both be right."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from joulebench.metrics import GPU_UP, THROTTLE_REASONS
from joulebench.results import throttle
from joulebench.results.fetch import GpuSamples
from joulebench.results.gpu_stats import throttled_by_reason
from joulebench.results.journal import throttled_seconds
from joulebench.results.timeseries import TimeSeries, growth_bounds

COOL = dict.fromkeys(THROTTLE_REASONS, 0.0)
NOTHING: Mapping[str, float] = {}


def gpu(uuid: str = "GPU-a", hot: tuple[float, float] = (5.2, 8.4)) -> GpuSamples:
    """A sample each second from 0 to 20; hw_thermal held the clocks down for a while."""
    found = GpuSamples("0", uuid)
    seconds = [float(second) for second in range(21)]
    found.gauges[GPU_UP.name] = TimeSeries.of([(at, 1.0) for at in seconds])
    for reason in THROTTLE_REASONS:
        held = [max(min(at, hot[1]) - hot[0], 0.0) if reason == "hw_thermal" else 0.0 for at in seconds]
        found.throttle[reason] = TimeSeries.of(list(zip(seconds, held, strict=True)))
    return found


def throttling(
    uuid: str, answer: Mapping[str, float], samples: GpuSamples | None, start: float, end: float
) -> throttle.Throttling:
    stored = None if samples is None else throttled_by_reason(samples, [(start, end)])[0]
    return throttle.gpu_throttling(uuid, answer, stored, samples, (start, end))


def test_the_exporter_is_preferred_and_both_are_told() -> None:
    one = throttling("GPU-a", {**COOL, "hw_thermal": 1.1}, gpu(), 5.0, 6.3)
    assert one.seconds["hw_thermal"] == 1.1
    assert set(one.sources.values()) == {"exporter"}
    assert one.disagreements == ()
    section = throttle.throttle_result([one], [None, 3.0, 5.0])
    assert (section.throttled_seconds, section.source) == (1.1, "exporter")
    assert section.throttled_seconds_prometheus == pytest.approx(0.8 + 0.3)
    assert section.min_temp_margin_c == 3.0


def test_prometheus_stands_in_reason_by_reason() -> None:
    one = throttling("GPU-a", {"hw_thermal": 1.1}, gpu(), 5.0, 6.3)
    assert (one.sources["hw_thermal"], one.sources["sw_thermal"]) == ("exporter", "prometheus")
    section = throttle.throttle_result([one], [])
    assert section.source == "mixed"
    assert (section.throttled_seconds, section.throttled_seconds_exporter) == (1.1, 1.1)
    alone = throttle.throttle_result([throttling("GPU-a", NOTHING, gpu(), 5.0, 6.3)], [])
    assert (alone.source, alone.throttled_seconds_exporter) == ("prometheus", None)


def test_neither_knows_and_then_there_is_no_zero() -> None:
    section = throttle.throttle_result([throttling("GPU-a", NOTHING, None, 5.0, 6.3)], [])
    assert (section.throttled_seconds, section.source, section.sources) == (None, None, {})
    assert section.seconds_by_reason == dict.fromkeys(THROTTLE_REASONS)


@pytest.mark.parametrize(("told", "excluded"), [(1.1, False), (0.6, False), (0.0, True), (3.0, True)])
def test_what_the_samples_exclude_is_a_disagreement(told: float, *, excluded: bool) -> None:
    """Between 5.0 and 6.3 the samples allow 0.8 to 1.8 seconds."""
    assert growth_bounds(gpu().throttle["hw_thermal"], 5.0, 6.3) == pytest.approx((0.8, 1.8))
    one = throttling("GPU-a", {**COOL, "hw_thermal": told}, gpu(), 5.0, 6.3)
    assert one.disagreements == (("hw_thermal",) if excluded else ())
    found = throttle.throttle_result([one], []).disagreements
    assert [(one.uuid, one.reason, one.exporter) for one in found] == ([("GPU-a", "hw_thermal", told)] if excluded else [])
    assert [one.prometheus for one in found] == pytest.approx([1.1] * len(found))


@pytest.mark.parametrize(("start", "end"), [(-1.0, 5.0), (5.0, 21.0)])
def test_samples_that_do_not_reach_over_the_window_bound_nothing(start: float, end: float) -> None:
    assert growth_bounds(gpu().throttle["hw_thermal"], start, end) is None


def test_a_counter_that_fell_bounds_nothing_and_a_window_between_two_samples_is_bounded_by_them() -> None:
    points = TimeSeries.of([(0.0, 7.0), (1.0, 8.0), (2.0, 0.5), (3.0, 1.5)])
    assert growth_bounds(points, 0.5, 2.5) is None
    assert growth_bounds(points, 2.1, 2.9) == (0.0, 1.0)


def test_of_two_gpus_the_most_throttled_counts_and_a_zero_needs_both() -> None:
    cool = throttling("GPU-b", COOL, None, 5.0, 6.3)
    hot = throttling("GPU-a", {**COOL, "sw_thermal": 0.7, "hw_thermal": 0.2}, None, 5.0, 6.3)
    silent = throttling("GPU-c", NOTHING, None, 5.0, 6.3)
    assert throttle.throttle_result([cool, hot], []).throttled_seconds == 0.7
    assert throttle.throttle_result([cool, cool], []).throttled_seconds == 0.0
    assert throttle.throttle_result([cool, silent], []).throttled_seconds is None
    assert throttle.throttle_result([hot, silent], []).throttled_seconds == 0.7


def test_a_card_that_counts_the_single_reasons_needs_no_sum_of_them() -> None:
    counted = {reason: 0.0 for reason in THROTTLE_REASONS if reason != "hw_slowdown"}
    section = throttle.throttle_result([throttling("GPU-a", counted, None, 5.0, 6.3)], [])
    assert section.throttled_seconds == 0.0
    without = {reason: 0.0 for reason in counted if reason != "hw_thermal"}
    assert throttle.throttle_result([throttling("GPU-a", without, None, 5.0, 6.3)], []).throttled_seconds is None


@pytest.mark.parametrize(
    ("told", "known"),
    [
        (None, {}),
        ([], {}),
        ({"hw_thermal": 1.5, "sw_thermal": None, "of_tomorrow": 3.0}, {"hw_thermal": 1.5}),
        ({"hw_thermal": -1.0, "sw_thermal": "2", "hw_power_brake": float("nan")}, {}),
    ],
)
def test_a_journal_is_data_from_outside(told: object, known: Mapping[str, float]) -> None:
    assert throttled_seconds({"uuid": "GPU-a", "throttled_seconds": told}) == known


def test_the_seconds_of_a_call_are_the_exporters_where_it_told_them() -> None:
    answers = {"GPU-a": {**COOL, "hw_thermal": 1.05}}
    assert throttle.call_throttling([gpu()], 5.0, 6.3, 2.0, answers)[0] == 1.05
    assert throttle.call_throttling([], 5.0, 6.3, 2.0, answers)[0] == 1.05


def test_where_the_exporter_does_not_know_the_time_at_the_power_limit_prometheus_does_not_stand_in() -> None:
    known = {reason: 0.0 for reason in COOL if reason != "sw_power_cap"}
    one = throttling("GPU-a", known, gpu(), 5.0, 6.3)
    assert (one.seconds["sw_power_cap"], "sw_power_cap" in one.sources) == (None, False)
    assert throttle.throttle_result([one], []).throttled_seconds == 0.0
    assert throttling("GPU-a", NOTHING, gpu(), 5.0, 6.3).seconds["sw_power_cap"] == 0.0


def test_a_reason_without_a_name_is_trouble_and_a_zero_needs_it() -> None:
    one = throttling("GPU-a", {**COOL, "other": 0.7}, None, 5.0, 6.3)
    assert throttle.throttle_result([one], []).throttled_seconds == 0.7
    unknown = {reason: 0.0 for reason in COOL if reason != "other"}
    assert throttle.throttle_result([throttling("GPU-a", unknown, None, 5.0, 6.3)], []).throttled_seconds is None
