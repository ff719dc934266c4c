"""Meters beside the GPU: joules of known power, by counters that are late, rounded and wrap around, and by gauges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest

from joulebench.energy.estimator import window_energies
from joulebench.energy.window import WindowEnergy
from joulebench.meters import Meter
from joulebench.results.meters import (
    MeteredTask,
    MeterSamples,
    MeterSeries,
    counter_curve,
    gauge_curve,
    is_same_host,
    meter_results,
)
from joulebench.results.timeseries import TimeSeries
from joulebench.schema.reasons import Reason
from joulebench.schema.result import MeterResult

Power = Sequence[tuple[float, float]]
"""(from second, watts), in order; the last goes on."""


def make_meter(**changes: Any) -> Meter:
    values: dict[str, Any] = {
        "name": "m",
        "query": "m",
        "kind": "counter",
        "unit": "joules",
        "scope": "cpu",
        "interval_seconds": 1.0,
        "max_watts": 1000.0,
    }
    return Meter(**{**values, **changes})


GAUGE: dict[str, Any] = {"kind": "gauge", "unit": "watts"}


def joules(power: Power, start: float, end: float) -> float:
    edges = [*(at for at, _ in power), float("inf")]
    return sum(
        watts * max(min(until, end) - max(since, start), 0.0)
        for (since, until), (_, watts) in zip(pairwise(edges), power, strict=True)
    )


def watts_at(power: Power, at: float) -> float:
    return next(watts for since, watts in reversed(power) if since <= at)


def scraped(value: Callable[[float], float], until: float, interval: float, phase: float) -> TimeSeries:
    return TimeSeries.of((at, value(at)) for at in np.arange(phase, until, interval).tolist())


def tasks_every_5_seconds(random: Random, count: int = 40) -> tuple[Power, list[tuple[float, float]]]:
    """Idle at 40 W, with windows of 2 s, each with its own power, at any phase."""
    power: list[tuple[float, float]] = [(0.0, 40.0)]
    windows = []
    for number in range(count):
        start = 10.0 + 6.0 * number + random.random()
        power += [(start, random.uniform(100.0, 300.0)), (start + 2.0, 40.0)]
        windows.append((start, start + 2.0))
    return power, windows


def energy_of(meter: Meter, samples: TimeSeries, windows: Sequence[tuple[float, float]]) -> list[WindowEnergy]:
    curve = counter_curve(meter, samples) if meter.kind == "counter" else gauge_curve(meter, samples)
    return window_energies(curve, windows, method=meter.kind)


@pytest.mark.parametrize("phase", [0.0, 0.13, 0.5, 0.77])
def test_a_counter_scraped_every_second_is_right_within_1_percent_for_windows_of_2_s(phase: float) -> None:
    power, windows = tasks_every_5_seconds(Random(phase))
    samples = scraped(lambda at: joules(power, 0.0, at), 300.0, 1.0, phase)
    for window, energy in zip(windows, energy_of(make_meter(), samples, windows), strict=True):
        truth = joules(power, *window)
        assert energy.joules == pytest.approx(truth, rel=0.01)
        assert energy.low is not None
        assert energy.high is not None
        assert energy.low <= truth <= energy.high


def random_power(random: Random) -> Power:
    power, at = [(0.0, 50.0)], 0.0
    while at < 400:
        at += random.uniform(0.05, 6.0)
        power.append((at, random.uniform(0.0, 900.0)))
    return power


@pytest.mark.parametrize(
    ("settings", "interval", "resolution", "period"),
    [
        ({}, 1.0, 0.0, 0.0),
        ({"unit": "millijoules"}, 5.0, 0.0, 0.0),
        # Repeated by the exporter for up to 5 s, and 1 Wh as the finest step.
        ({"update_seconds": 5.0}, 1.0, 0.0, 5.0),
        ({"update_seconds": 30.0}, 2.0, 0.0, 30.0),
        ({"update_seconds": 900.0, "unit": "kilowatt_hours"}, 5.0, 3600.0, 0.0),
    ],
)
def test_bounds_of_a_counter_hold_for_any_power(
    settings: dict[str, Any], interval: float, resolution: float, period: float
) -> None:
    random = Random(7)
    meter = make_meter(**settings)
    power = random_power(random)

    def value(at: float) -> float:
        read_at = at // period * period if period else at
        used = joules(power, 0.0, read_at)
        return (used // resolution * resolution if resolution else used) / meter.factor

    samples = scraped(value, 400.0, interval, 0.4)
    windows = [(start, start + random.uniform(0.2, 90.0)) for start in (random.uniform(60.0, 200.0) for _ in range(60))]
    energies = energy_of(meter, samples, windows)
    assert sum(energy.joules is not None for energy in energies) >= 50
    for window, energy in zip(windows, energies, strict=True):
        truth = joules(power, *window)
        assert energy.low is None or energy.low <= truth + 1e-6
        assert energy.high is None or energy.high >= truth - 1e-6


def test_a_counter_that_is_full_begins_at_0_again_and_loses_nothing() -> None:
    power: Power = [(0.0, 100.0)]
    full = 262143.328850
    samples = scraped(lambda at: (260_000.0 + 100.0 * at) % full, 120.0, 1.0, 0.0)
    (energy,) = energy_of(make_meter(wraps_at=full), samples, [(15.5, 30.5)])
    assert energy.joules == pytest.approx(joules(power, 15.5, 30.5), rel=1e-6)
    assert (energy.resets, energy.quality) == (0, "ok")
    # Without the setting the fall is a counter that began anew, which is seen and named.
    (energy,) = energy_of(make_meter(), samples, [(15.5, 30.5)])
    assert energy.resets == 1
    assert Reason.RESET in energy.reasons


def test_a_counter_that_may_have_been_full_once_more_in_a_gap_has_no_joules_there() -> None:
    full = 65_712.999613
    samples = scraped(lambda at: (60_000.0 + 150.0 * at) % full, 1500.0, 1.0, 0.0)
    seen = (samples.at < 300.0) | (samples.at > 900.0)
    samples = TimeSeries(samples.at[seen], samples.value[seen])
    meter = make_meter(wraps_at=full, max_watts=200.0)
    over, before, after = energy_of(meter, samples, [(250.0, 950.0), (150.0, 250.0), (950.0, 1050.0)])
    assert (over.joules, over.resets) == (None, 1)
    assert Reason.RESET in over.reasons
    assert over.low == pytest.approx(150.0 * (50.0 + 50.0), rel=0.05)
    assert over.high is None or over.high >= 150.0 * 700.0
    for energy in (before, after):
        assert energy.joules == pytest.approx(15_000.0, rel=1e-6)
        assert energy.quality == "ok"


def test_a_restart_is_no_wrap_around() -> None:
    samples = scraped(lambda at: 100.0 * at if at < 50 else 100.0 * (at - 50), 120.0, 1.0, 0.0)
    (energy,) = energy_of(make_meter(wraps_at=262143.3), samples, [(40.0, 60.0)])
    assert energy.resets == 1
    assert energy.low is not None
    assert energy.low <= 2000.0


@pytest.mark.parametrize("interval", [0.5, 1.0, 2.0])
def test_a_gauge_is_within_its_stated_error_where_power_stays_between_samples(interval: float) -> None:
    power, windows = tasks_every_5_seconds(Random(interval))
    windows = [(start - 1.0, end + 3.0) for start, end in windows]
    meter = make_meter(**GAUGE, interval_seconds=interval)
    samples = scraped(lambda at: watts_at(power, at), 300.0, interval, 0.3)
    errors = []
    for window, energy in zip(windows, energy_of(meter, samples, windows), strict=True):
        truth = joules(power, *window)
        assert energy.joules is not None
        assert energy.low is not None
        assert energy.high is not None
        assert energy.low <= truth <= energy.high
        assert energy.low <= energy.joules <= energy.high
        errors.append(energy.joules / truth - 1)
    assert abs(sum(errors) / len(errors)) < 0.02


def results(meter: Meter, samples: Sequence[TimeSeries], tasks: Sequence[MeteredTask], hosts: Sequence[str]) -> list[MeterResult]:
    make = counter_curve if meter.kind == "counter" else gauge_curve
    series = [MeterSeries(meter, host, None, make(meter, one)) for host, one in zip(hosts, samples, strict=True)]
    return [found[meter.name] for found in meter_results(MeterSamples((meter,), {meter.name: series}), tasks)]


def one_result(meter: Meter, samples: TimeSeries, start: float, end: float) -> MeterResult:
    return results(meter, [samples], [MeteredTask("t", start, end)], ["*"])[0]


def test_a_gauge_with_a_gap_has_no_joules_and_says_why() -> None:
    samples = TimeSeries.of((float(at), 100.0) for at in range(100) if not 40 < at < 60)
    found = one_result(make_meter(**GAUGE), samples, 30.0, 70.0)
    assert (found.joules, found.quality, found.counter_resets) == (None, "missing", 0)
    assert "gap" in found.reasons
    assert found.low_joules == pytest.approx(2000.0, rel=0.01)


def test_a_gauge_that_has_no_sample_in_the_window_knows_nothing_and_with_one_sample_little() -> None:
    samples = TimeSeries.of((float(at), 100.0) for at in range(0, 300, 15))
    meter = make_meter(**GAUGE, interval_seconds=15.0, max_watts=500.0, min_watts=20.0)
    nothing = one_result(meter, samples, 31.0, 40.0)
    assert (nothing.joules, nothing.low_joules, nothing.high_joules, nothing.quality) == (None, None, None, "missing")
    assert nothing.reasons == ["no_samples"]
    little = one_result(meter, samples, 31.0, 51.0)
    assert little.joules == pytest.approx(2000.0)
    assert (little.low_joules, little.high_joules, little.quality) == (400.0, 10_000.0, "short")


def test_impossible_power_is_left_out_and_named() -> None:
    samples = TimeSeries.of((float(at), 1e6 if at == 50 else 100.0) for at in range(100))
    found = one_result(make_meter(**GAUGE), samples, 40.0, 60.0)
    assert found.joules == pytest.approx(2000.0)
    assert found.reasons == ["glitch"]


def test_the_error_of_the_sensor_widens_the_bounds() -> None:
    samples = TimeSeries.of((float(at), 100.0) for at in range(100))
    found = one_result(make_meter(**GAUGE, error_ratio=0.05), samples, 40.0, 60.0)
    assert found.joules == pytest.approx(2000.0)
    assert found.low_joules == pytest.approx(1900.0)
    assert found.high_joules == pytest.approx(2100.0)
    assert found.mean_watts == pytest.approx(100.0)
    assert found.quality == "ok"


def test_packages_of_a_host_are_added_and_hosts_are_told_apart() -> None:
    constant = [TimeSeries.of((float(at), rate * at) for at in range(100)) for rate in (10.0, 20.0, 70.0)]
    hosts = ["a.lan:9100", "a.lan:9100", "b:9100"]
    tasks = [
        MeteredTask("a", 20.0, 40.0, frozenset(["a"])),
        MeteredTask("b", 50.0, 60.0, frozenset(["b.lan:18347"])),
        MeteredTask("both", 70.0, 80.0, frozenset(["a", "b"])),
        MeteredTask("c", 82.0, 84.0, frozenset(["a", "c"])),
        MeteredTask("unknown", 85.0, 87.0),
    ]
    found = results(make_meter(), constant, tasks, hosts)
    assert [one.joules for one in found] == [pytest.approx(600.0), pytest.approx(700.0), pytest.approx(1000.0), None, None]
    assert [one.series for one in found] == [2, 1, 3, 2, 0]
    assert (found[3].reasons[-1], found[3].high_joules) == ("host_without_meter", None)
    assert found[3].low_joules is not None
    assert found[4].reasons == ["host_unknown"]
    (alone,) = results(make_meter(), constant[:2], tasks[4:], hosts[:2])
    assert alone.joules == pytest.approx(60.0)
    assert (alone.quality, alone.reasons[-1]) == ("suspect", "host_assumed")


def test_tasks_at_one_time_share_a_host_without_counting_a_joule_twice() -> None:
    """Also where they run on different GPUs or reach over different hosts."""
    samples = [TimeSeries.of((float(at), 100.0 * at) for at in range(100)) for _ in range(2)]
    tasks = [
        MeteredTask("one", 20.0, 40.0, frozenset(["a"]), frozenset(["GPU-0"])),
        MeteredTask("two", 30.0, 50.0, frozenset(["a"]), frozenset(["GPU-1"])),
        MeteredTask("both", 45.0, 60.0, frozenset(["a", "b"])),
    ]
    found = results(make_meter(), samples, tasks, ["a", "b"])
    assert [one.joules for one in found] == [pytest.approx(2000.0), pytest.approx(2000.0), pytest.approx(3000.0)]
    shares = [one.attributed_joules for one in found]
    assert shares == [pytest.approx(1500.0), pytest.approx(1250.0), pytest.approx(2750.0)]
    # Host a for 40 s, host b for 15 s.
    assert sum(share for share in shares if share is not None) == pytest.approx(4000.0 + 1500.0)
    assert [one.overlap_fraction for one in found] == [pytest.approx(0.5), pytest.approx(0.75), pytest.approx(1 / 3)]
    assert all("overlap" in one.reasons and one.quality == "suspect" for one in found)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a:9100", "a:18347", True),
        ("127.0.0.1:18347", "localhost:9100", True),
        ("[::1]:9100", "127.0.0.1:18347", True),
        ("node-1.rack.lan", "NODE-1:9100", True),
        ("node-1.rack.lan", "node-1.other.lan", False),
        ("10.0.0.5:9100", "10.0.0.5", True),
        ("10.0.0.5", "10.0.0.6", False),
        ("10", "10.0.0.6", False),
        ("a", "b", False),
        ("[2001:db8::1]:9100", "[2001:0db8:0:0::1]:18347", True),
        ("::ffff:10.0.0.1", "10.0.0.1:9100", True),
    ],
)
def test_hosts_are_the_same_without_ports_and_domains(one: str, other: str, same: bool) -> None:
    assert is_same_host(one, other) is same
    assert is_same_host(other, one) is same
