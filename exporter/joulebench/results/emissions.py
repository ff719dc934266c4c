"""Carbon and water of tasks: the joules of a scope or a meter times a configured factor, a constant or a series in Prometheus.

A sample of a series stands until the next, for ``GAP_FACTOR`` usual intervals at most. A window counts with the mean of the
factor by time; where a part of the window has no factor, the amount is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from joulebench.clients.prometheus import PrometheusApi
from joulebench.energy.curve import GAP_FACTOR
from joulebench.errors import PrometheusError
from joulebench.meters import HIGHEST_FACTOR, EmissionFactor
from joulebench.results.fetch import CHUNK_SECONDS, chunks, union
from joulebench.results.meters import fetch_columns, join_columns
from joulebench.results.timeseries import EMPTY, TimeSeries, Window
from joulebench.schema.columns import EMISSION_UNITS
from joulebench.schema.reasons import Reason
from joulebench.schema.result import EmissionResult, TaskResult
from joulebench.schema.scopes import ScopeEnergy, add_scopes, energy_by_scope, meter_energy
from joulebench.units import kwh_from_joules

PAD_INTERVALS = GAP_FACTOR + 1.0
"""Usual intervals fetched before and after a window: the sample that stands at its start, and the next after its end."""


@dataclass(frozen=True, slots=True)
class FactorSamples:
    """``kind``: of ``EMISSION_UNITS``. ``series``: samples of a factor that is no constant. ``failure``: why there are none."""

    kind: str
    factor: EmissionFactor
    series: TimeSeries = EMPTY
    failure: Reason | None = None


@dataclass(frozen=True, slots=True)
class WindowFactor:
    """The factor over a window, for one kWh; None where it is not known. ``samples``: None for a constant, too."""

    mean: float | None
    low: float | None
    high: float | None
    samples: int | None


def fetch_factors(
    api: PrometheusApi | None, factors: Mapping[str, EmissionFactor], windows: Sequence[Window], chunk: float = CHUNK_SECONDS
) -> tuple[list[FactorSamples], list[str]]:
    """(every factor with its samples around the windows, notes). ``api`` None: constants only."""
    found, notes = [], []
    for kind, factor in factors.items():
        samples, note = _fetch_factor(api, kind, factor, windows, chunk)
        found.append(samples)
        notes += [f"emissions, {kind}: {note}"] if note else []
    return found, notes


def _fetch_factor(
    api: PrometheusApi | None, kind: str, factor: EmissionFactor, windows: Sequence[Window], chunk: float
) -> tuple[FactorSamples, str]:
    if factor.query is None:
        return FactorSamples(kind, factor), ""
    if api is None:
        why = "the factor is not known: it is in Prometheus, which was not asked"
        return FactorSamples(kind, factor, failure=Reason.PROMETHEUS_NOT_ASKED), why
    assert factor.interval_seconds is not None
    spans = chunks(union(windows, PAD_INTERVALS * factor.interval_seconds), chunk)
    try:
        columns = [column for start, end in spans for column in fetch_columns(api, factor.query, start, end)]
    except PrometheusError as error:
        return FactorSamples(kind, factor, failure=Reason.PROMETHEUS_FAILED), f"Prometheus failed: {error}"
    series = [samples for _, samples in join_columns(columns)]
    if len(series) > 1:
        why = f"{factor.query.strip()} selects {len(series)} series; add labels that name a single series"
        return FactorSamples(kind, factor, failure=Reason.SEVERAL_FACTORS), why
    if not series:
        why = f"Prometheus has no series {factor.query.strip()}; correct the query or take it out" if windows else ""
        return FactorSamples(kind, factor, failure=Reason.NO_FACTOR), why
    at, value = series[0].at, series[0].value
    possible = (value >= 0) & (value <= HIGHEST_FACTOR)
    note = "" if possible.all() else f"{int((~possible).sum())} samples that are no amount for a kWh were left out"
    return FactorSamples(kind, factor, TimeSeries(at[possible], value[possible])), note


def window_factor(samples: FactorSamples, window: Window | None) -> WindowFactor | None:
    """None where a part of the window has no factor. A change may come before the scrape that shows it, so the bounds hold the
    next sample after the window, too."""
    constant, interval = samples.factor.constant, samples.factor.interval_seconds
    if constant is not None:
        return WindowFactor(constant, constant, constant, None)
    at, value = samples.series.at, samples.series.value
    if window is None or interval is None or not len(at):
        return None
    start, end = window
    first, last = int(np.searchsorted(at, start, "right")) - 1, int(np.searchsorted(at, end, "right"))
    if first < 0:
        return None
    longest = GAP_FACTOR * interval
    begins, factors = at[first:last], value[first:last]
    ends = np.append(begins[1:], end)
    if (ends - begins > longest).any():
        return None
    seconds = ends - np.maximum(begins, start)
    mean = float(np.average(factors, weights=seconds)) if end > start else float(factors[-1])
    if last < len(at) and at[last] - begins[-1] <= longest:
        factors = np.append(factors, value[last])
    return WindowFactor(mean, float(factors.min()), float(factors.max()), last - first)


def emission_results(factors: Sequence[FactorSamples], result: TaskResult, window: Window | None) -> dict[str, EmissionResult]:
    """By kind. ``result``: with its measurement, shares and meters."""
    return {samples.kind: _emission_result(samples, result, window) for samples in factors}


def _emission_result(samples: FactorSamples, result: TaskResult, window: Window | None) -> EmissionResult:
    given, energy = samples.factor, _energy_of(samples.factor.of, result)
    factor = window_factor(samples, window)
    reasons = [str(reason) for reason in energy.reasons]
    if factor is None:
        reasons.append(str(samples.failure or Reason.NO_FACTOR))
        factor = WindowFactor(None, None, None, None)
    amount = _product(energy.joules, factor.mean)
    return EmissionResult(
        amount=amount,
        low=_product(energy.low, factor.low),
        high=_product(energy.high, factor.high),
        unit=EMISSION_UNITS[samples.kind],
        factor=factor.mean,
        factor_low=factor.low,
        factor_high=factor.high,
        factor_samples=factor.samples,
        of=given.of,
        joules=energy.joules,
        source=given.source,
        date=None if given.date is None else given.date.isoformat(),
        query=given.query,
        quality="missing" if amount is None else energy.quality,
        reasons=reasons,
        simulated=energy.simulated,
    )


def _energy_of(of: str, result: TaskResult) -> ScopeEnergy:
    """The energy of a meter by its name, or of scopes."""
    if of in result.meters:
        return meter_energy(of, result.meters[of])
    energy = add_scopes(energy_by_scope(result), [scope.strip() for scope in of.split("+")])
    return energy or ScopeEnergy(of, None, None, None, "missing", (Reason.NOT_METERED,), simulated=False)


def _product(joules: float | None, per_kwh: float | None) -> float | None:
    return None if joules is None or per_kwh is None else kwh_from_joules(joules) * per_kwh
