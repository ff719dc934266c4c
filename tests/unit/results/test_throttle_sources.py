"""Throttled seconds from the exporter and from Prometheus: which one counts, and when they cannot both be right."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from joulebench.metrics import GPU_UP, THROTTLE_REASONS
from joulebench.results import from_journal, throttle
from joulebench.results.gauge_stats import growth_bounds
from joulebench.results.gpu_samples import GpuSamples
from joulebench.results.points import Columns

COOL = dict.fromkeys(THROTTLE_REASONS, 0.0)
NOTHING: Mapping[str, float] = {}


def gpu(uuid: str = "GPU-a", hot: tuple[float, float] = (5.2, 8.4)) -> GpuSamples:
    """A sample each second from 0 to 20; hw_thermal held the clocks down for a while."""
    found = GpuSamples("0", uuid)
    seconds = [float(second) for second in range(21)]
    found.gauges[GPU_UP.name] = Columns.of([(at, 1.0) for at in seconds])
    for reason in THROTTLE_REASONS:
        held = [max(min(at, hot[1]) - hot[0], 0.0) if reason == "hw_thermal" else 0.0 for at in seconds]
        found.throttle[reason] = Columns.of(list(zip(seconds, held, strict=True)))
    return found


def test_the_exporter_is_preferred_and_both_are_told() -> None:
    one = throttle.of_gpu("GPU-a", {**COOL, "hw_thermal": 1.1}, gpu(), 5.0, 6.3)
    assert one.seconds["hw_thermal"] == 1.1
    assert set(one.sources.values()) == {"exporter"}
    assert one.disagreements == ()
    section = throttle.section([one], 3.0)
    assert (section["throttled_seconds"], section["source"]) == (1.1, "exporter")
    assert section["throttled_seconds_prometheus"] == pytest.approx(0.8 + 0.3)
    assert section["min_temp_margin_c"] == 3.0


def test_prometheus_stands_in_reason_by_reason() -> None:
    one = throttle.of_gpu("GPU-a", {"hw_thermal": 1.1}, gpu(), 5.0, 6.3)
    assert (one.sources["hw_thermal"], one.sources["sw_thermal"]) == ("exporter", "prometheus")
    section = throttle.section([one], None)
    assert section["source"] == "mixed"
    assert (section["throttled_seconds"], section["throttled_seconds_exporter"]) == (1.1, 1.1)
    alone = throttle.section([throttle.of_gpu("GPU-a", NOTHING, gpu(), 5.0, 6.3)], None)
    assert (alone["source"], alone["throttled_seconds_exporter"]) == ("prometheus", None)


def test_neither_knows_and_then_there_is_no_zero() -> None:
    section = throttle.section([throttle.of_gpu("GPU-a", NOTHING, None, 5.0, 6.3)], None)
    assert (section["throttled_seconds"], section["source"], section["sources"]) == (None, None, {})
    assert section["seconds_by_reason"] == dict.fromkeys(THROTTLE_REASONS)


@pytest.mark.parametrize(("told", "excluded"), [(1.1, False), (0.6, False), (0.0, True), (3.0, True)])
def test_what_the_samples_exclude_is_a_disagreement(told: float, *, excluded: bool) -> None:
    """Between 5.0 and 6.3 the samples allow 0.8 to 1.8 seconds."""
    assert growth_bounds(gpu().throttle["hw_thermal"], 5.0, 6.3) == pytest.approx((0.8, 1.8))
    one = throttle.of_gpu("GPU-a", {**COOL, "hw_thermal": told}, gpu(), 5.0, 6.3)
    assert one.disagreements == (("hw_thermal",) if excluded else ())
    found = throttle.section([one], None)["disagreements"]
    expected = [{"uuid": "GPU-a", "reason": "hw_thermal", "exporter": told, "prometheus": pytest.approx(1.1)}]
    assert found == (expected if excluded else [])


@pytest.mark.parametrize(("start", "end"), [(-1.0, 5.0), (5.0, 21.0)])
def test_samples_that_do_not_reach_over_the_window_bound_nothing(start: float, end: float) -> None:
    assert growth_bounds(gpu().throttle["hw_thermal"], start, end) is None


def test_a_counter_that_fell_bounds_nothing_and_a_window_between_two_samples_is_bounded_by_them() -> None:
    points = Columns.of([(0.0, 7.0), (1.0, 8.0), (2.0, 0.5), (3.0, 1.5)])
    assert growth_bounds(points, 0.5, 2.5) is None
    assert growth_bounds(points, 2.1, 2.9) == (0.0, 1.0)


def test_of_two_gpus_the_most_throttled_counts_and_a_zero_needs_both() -> None:
    cool = throttle.of_gpu("GPU-b", COOL, None, 5.0, 6.3)
    hot = throttle.of_gpu("GPU-a", {**COOL, "sw_thermal": 0.7, "hw_thermal": 0.2}, None, 5.0, 6.3)
    silent = throttle.of_gpu("GPU-c", NOTHING, None, 5.0, 6.3)
    assert throttle.section([cool, hot], None)["throttled_seconds"] == 0.7
    assert throttle.section([cool, cool], None)["throttled_seconds"] == 0.0
    assert throttle.section([cool, silent], None)["throttled_seconds"] is None
    assert throttle.section([hot, silent], None)["throttled_seconds"] == 0.7


def test_a_card_that_counts_the_single_reasons_needs_no_sum_of_them() -> None:
    counted = {reason: 0.0 for reason in THROTTLE_REASONS if reason != "hw_slowdown"}
    section = throttle.section([throttle.of_gpu("GPU-a", counted, None, 5.0, 6.3)], None)
    assert section["throttled_seconds"] == 0.0
    without = {reason: 0.0 for reason in counted if reason != "hw_thermal"}
    assert throttle.section([throttle.of_gpu("GPU-a", without, None, 5.0, 6.3)], None)["throttled_seconds"] is None


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
    assert from_journal.throttled({"uuid": "GPU-a", "throttled_seconds": told}) == known


def test_the_seconds_of_a_call_are_the_exporters_where_it_told_them() -> None:
    found = throttle.within([gpu()], 5.0, 6.3, 2.0, {"GPU-a": {**COOL, "hw_thermal": 1.05}})
    assert found["throttled_seconds"] == 1.05
    assert throttle.within([], 5.0, 6.3, 2.0, {"GPU-a": {**COOL, "hw_thermal": 1.05}})["throttled_seconds"] == 1.05
