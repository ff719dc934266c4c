"""Carbon and water of a task: known joules times constants, and times a series whose factor changes during the task."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from joulebench.meters import CarbonFactor, EmissionFactor, WaterFactor
from joulebench.results.emissions import FactorSamples, emission_results, fetch_factors
from joulebench.results.timeseries import TimeSeries
from joulebench.schema.columns import EMISSION_COLUMNS, emission_cells, is_configured_column, result_row
from joulebench.schema.reasons import Reason
from joulebench.schema.result import Attribution, EmissionResult, Measurement, MeterResult, TaskResult

KWH = 3.6e6
WINDOW = (1000.0, 1100.0)
DAY: dict[str, Any] = {"source": "grid operator", "date": date(2026, 10, 1)}


def make_result(**meters: MeterResult) -> TaskResult:
    """2 kWh of the GPUs, from 1.9 to 2.2."""
    energy = Measurement(joules=2 * KWH, low_joules=1.9 * KWH, high_joules=2.2 * KWH, quality="ok")
    return TaskResult(measurement=energy, meters=meters)


def make_meter(scope: str, kwh: float | None) -> MeterResult:
    joules = None if kwh is None else kwh * KWH
    return MeterResult(
        scope=scope, joules=joules, low_joules=joules, high_joules=joules, attributed_joules=joules, quality="ok", simulated=True
    )


def series(**changes: Any) -> CarbonFactor:
    values: dict[str, Any] = {"source": "grid API", "of": "gpu", "query": "grid", "interval_seconds": 20.0}
    return CarbonFactor(**{**values, **changes})


def emission(
    factor: EmissionFactor, result: TaskResult, points: tuple[tuple[float, float], ...] = (), window: Any = WINDOW
) -> EmissionResult:
    (found,) = emission_results([FactorSamples("carbon", factor, TimeSeries.of(points))], result, window).values()
    return found


def test_a_constant_multiplies_the_joules_and_their_bounds() -> None:
    result = make_result()
    factors, notes = fetch_factors(
        None,
        {"carbon": CarbonFactor(grams_per_kwh=420, of="gpu", **DAY), "water": WaterFactor(litres_per_kwh=1.8, of="gpu", **DAY)},
        [WINDOW],
    )
    found = emission_results(factors, result, WINDOW)
    carbon, water = found["carbon"], found["water"]
    assert [carbon.amount, carbon.low, carbon.high] == pytest.approx([840, 798, 924])
    assert (carbon.unit, carbon.factor, carbon.factor_samples) == ("grams", 420, None)
    assert (carbon.source, carbon.date, carbon.of, carbon.quality) == ("grid operator", "2026-10-01", "gpu", "ok")
    assert water.amount == pytest.approx(3.6)
    assert water.unit == "litres"
    assert notes == []


def test_a_factor_of_0_is_a_claim_of_its_source() -> None:
    assert emission(CarbonFactor(grams_per_kwh=0, of="gpu", **DAY), make_result()).amount == 0


def test_the_joules_are_those_of_the_named_scope_or_meter() -> None:
    result = make_result(plug=make_meter("wall", 5.0), other=make_meter("wall", 6.0), cpu=make_meter("cpu", 0.5))
    for of, kwh in (("wall", 5.0), ("other", 6.0), ("gpu + cpu", 2.5)):
        found = emission(CarbonFactor(grams_per_kwh=100, of=of, **DAY), result)
        assert [found.amount, found.joules] == pytest.approx([100 * kwh, kwh * KWH])
        assert found.simulated


def test_an_overlapped_task_is_charged_its_share() -> None:
    result = make_result()
    result.attribution = Attribution(overlap_fraction=0.5, attributed=0.5 * KWH)
    found = emission(CarbonFactor(grams_per_kwh=100, of="gpu", **DAY), result)
    assert found.amount == pytest.approx(50)
    assert (found.low, found.high) == (None, None)


def test_unknown_joules_have_no_amount() -> None:
    unmeasured = emission(CarbonFactor(grams_per_kwh=100, of="wall", **DAY), make_result())
    assert (unmeasured.amount, unmeasured.quality, unmeasured.reasons) == (None, "missing", ["not_metered"])
    unknown = emission(CarbonFactor(grams_per_kwh=100, of="wall", **DAY), make_result(plug=make_meter("wall", None)))
    assert (unknown.amount, unknown.quality) == (None, "missing")


def test_a_series_counts_with_its_mean_by_time_and_its_range_in_the_bounds() -> None:
    """400 g until a quarter of the window, then 200 g: samples every 20 s, those before and after the window too."""
    points = tuple((float(at), 400.0 if at < 1025 else 200.0) for at in range(905, 1200, 20))
    found = emission(series(), make_result(), points)
    assert [found.factor, found.factor_low, found.factor_high] == pytest.approx([250, 200, 400])
    assert [found.amount, found.low, found.high] == pytest.approx([500, 380, 880])
    assert found.factor_samples == 6
    assert (found.source, found.date, found.query, found.quality) == ("grid API", None, "grid", "ok")


def test_a_window_between_two_samples_has_the_factor_that_stood_and_bounds_with_the_next() -> None:
    found = emission(series(), make_result(), ((990.0, 300.0), (1010.0, 500.0)), (1000.0, 1002.0))
    assert (found.factor, found.factor_low, found.factor_high) == (300, 300, 500)
    instant = emission(series(), make_result(), ((990.0, 300.0),), (1000.0, 1000.0))
    assert instant.factor == 300


@pytest.mark.parametrize(
    "points",
    [
        (),
        ((1050.0, 300.0),),
        # Older than five intervals at the start, in the middle and at the end of the window.
        ((899.0, 300.0), (1005.0, 300.0)),
        ((990.0, 300.0), (1091.0, 300.0)),
        ((980.0, 300.0), (999.0, 300.0)),
        ((1200.0, 300.0),),
    ],
)
def test_a_window_that_the_series_does_not_reach_over_has_no_amount(points: tuple[tuple[float, float], ...]) -> None:
    found = emission(series(), make_result(), points)
    assert (found.amount, found.low, found.factor, found.quality) == (None, None, None, "missing")
    assert found.reasons == ["no_factor"]
    assert found.joules == 2 * KWH


def test_a_series_without_prometheus_is_unknown_and_noted() -> None:
    (samples,), (note,) = fetch_factors(None, {"carbon": series()}, [WINDOW])
    assert samples.failure is Reason.PROMETHEUS_NOT_ASKED
    assert note.startswith("emissions, carbon: the factor is not known")
    (found,) = emission_results([samples], make_result(), WINDOW).values()
    assert (found.amount, found.reasons) == (None, ["prometheus_not_asked"])


def test_only_what_is_configured_has_columns() -> None:
    result = make_result()
    assert emission_results([], result, WINDOW) == {}
    assert not any(name in EMISSION_COLUMNS for name in result_row(result))
    result.emissions = {"carbon": emission(CarbonFactor(grams_per_kwh=420, of="gpu", **DAY), result)}
    row = result_row(result)
    assert [row["carbon_grams"], row["carbon_low_grams"]] == pytest.approx([840, 798])
    assert (row["carbon_source"], row["carbon_date"], row["carbon_reasons"]) == ("grid operator", "2026-10-01", "")
    assert not any(name.startswith("water") for name in row)
    assert all(map(is_configured_column, emission_cells(result.emissions)))
