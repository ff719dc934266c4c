"""What a set of tasks costs here and from an API, and how busy the machine must be for the two to be equal.

With u the share of its hours in which the machine works on tasks, the busy hours pay for all hours:

    local(u) = E + H / u + I (1 - u) / u        E: electricity of the tasks, joules x price x PUE
                                                H: hours of the tasks x price of an hour of the machine
                                                I: hours of the tasks x idle watts x price x PUE
    local(u) = A                                A: the same tokens at the API's prices
    u = (H + I) / (A - E + I)

The price of a kWh is integrated over the time of each task; idle hours pay the mean over a day. Of the prompt tokens an API is
paid its price for cached ones for the cached share c, and its full price for the rest:

    c = cached tokens / prompt tokens, over the attempts whose server reports cached tokens; 0 where no server does, or on request

The sliders of the report page do the same. An API is assumed to succeed as often as the model did here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

from joulebench.analysis.runs import Attempt
from joulebench.prices import SECONDS_PER_HOUR, ApiPrice, PriceList
from joulebench.units import JOULES_PER_KWH

DEFAULT_UTILIZATION = 0.25
SECONDS_PER_DAY = 86_400.0
SENSITIVITY = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class Workload:
    """The work of attempts whose joules, time and tokens are known; ``excluded`` counts the others.

    ``busy_seconds``: with at least one task, so that parallel tasks do not pay twice for the machine. ``cached_share``: of the
    prompt tokens, None where no server reports it; ``cached_source``: where it comes from, in words. ``price_per_kwh``: mean
    by joules at the time of use; ``idle_price_per_kwh``: mean over a day; both None without a price.
    """

    attempts: int
    successes: int
    excluded: int
    joules: float
    busy_seconds: float
    prompt_tokens: int
    cached_share: float | None
    cached_source: str
    completion_tokens: int
    idle_watts: float | None
    price_per_kwh: float | None
    idle_price_per_kwh: float | None

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def cached_tokens(self) -> float:
        return self.prompt_tokens * (self.cached_share or 0.0)


@dataclass(frozen=True, slots=True)
class CostTerms:
    """``per_kwh``, ``idle_per_kwh`` and ``per_hour`` in the currency of the price list; ``utilization`` above 0, up to 1;
    ``idle_watts`` of all GPUs."""

    per_kwh: float
    idle_per_kwh: float
    per_hour: float
    utilization: float
    pue: float
    idle_watts: float


@dataclass(frozen=True, slots=True)
class LocalCost:
    electricity: float
    hardware: float
    idle: float

    @property
    def total(self) -> float:
        return self.electricity + self.hardware + self.idle


@dataclass(frozen=True, slots=True)
class BreakEven:
    """``utilization`` above which local is cheaper; None where it never is, or always, as ``finding`` says."""

    utilization: float | None
    tokens_per_day: float | None
    finding: str


def workload_of_attempts(attempts: Sequence[Attempt], prices: PriceList | None = None, *, cache: bool = True) -> Workload:
    """``cache`` False: as if no prompt token had been cached."""
    known = [
        each
        for each in attempts
        if None not in (each.joules, each.seconds, each.start, each.prompt_tokens, each.completion_tokens)
    ]
    windows = [(each.start or 0.0, (each.start or 0.0) + (each.seconds or 0.0), each.joules or 0.0) for each in known]
    idle = [each.idle_watts for each in known if each.idle_watts is not None]
    cached_share, cached_source = _cached_share(known) if cache else (0.0, "as if nothing were cached")
    return Workload(
        attempts=len(known),
        successes=sum(each.success is True for each in known),
        excluded=len(attempts) - len(known),
        joules=sum(joules for _, _, joules in windows),
        busy_seconds=_busy_seconds((start, end) for start, end, _ in windows),
        prompt_tokens=sum(each.prompt_tokens or 0 for each in known),
        cached_share=cached_share,
        cached_source=cached_source,
        completion_tokens=sum(each.completion_tokens or 0 for each in known),
        idle_watts=sum(idle) / len(idle) if idle else None,
        price_per_kwh=_price_per_kwh(windows, prices),
        idle_price_per_kwh=_idle_price_per_kwh(windows, prices),
    )


def _cached_share(attempts: Sequence[Attempt]) -> tuple[float | None, str]:
    counted = [(each.cached_tokens, each.prompt_tokens_with_cache_count) for each in attempts]
    known = [(cached, prompt) for cached, prompt in counted if cached is not None and prompt]
    if not known:
        return None, "no server reports cached tokens: none are assumed"
    share = sum(cached for cached, _ in known) / sum(prompt for _, prompt in known)
    return share, f"as the server reports in {len(known)} of {len(attempts)} attempts"


def _busy_seconds(windows: Iterable[tuple[float, float]]) -> float:
    seconds, reached = 0.0, float("-inf")
    for start, end in sorted(windows):
        seconds += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return seconds


def _price_per_kwh(windows: Sequence[tuple[float, float, float]], prices: PriceList | None) -> float | None:
    total = sum(joules for _, _, joules in windows)
    if prices is None or prices.electricity is None or not total:
        return None
    paid = sum((prices.mean_electricity(start, end) or 0.0) * joules for start, end, joules in windows)
    return JOULES_PER_KWH * paid / total


def _idle_price_per_kwh(windows: Sequence[tuple[float, float, float]], prices: PriceList | None) -> float | None:
    if prices is None or prices.electricity is None or not windows:
        return None
    start = min(start for start, _, _ in windows)
    mean = prices.mean_electricity(start, start + SECONDS_PER_DAY)
    return None if mean is None else JOULES_PER_KWH * mean


def cost_terms(workload: Workload, prices: PriceList, utilization: float = DEFAULT_UTILIZATION) -> CostTerms:
    """The prices of the list; 0 for a price that it does not give, which ``missing_prices`` says."""
    return CostTerms(
        per_kwh=workload.price_per_kwh or 0.0,
        idle_per_kwh=workload.idle_price_per_kwh or 0.0,
        per_hour=prices.hardware.per_unit * SECONDS_PER_HOUR if prices.hardware else 0.0,
        utilization=utilization,
        pue=1.0 if prices.pue is None else prices.pue,
        idle_watts=workload.idle_watts or 0.0,
    )


def missing_prices(workload: Workload, prices: PriceList) -> list[str]:
    notes = []
    if prices.electricity is None:
        notes.append("the price list has no electricity: it is not included")
    if prices.hardware is None:
        notes.append("the price list has no hardware: local costs are electricity only")
    if workload.idle_watts is None:
        notes.append("idle power was not measured: electricity of idle hours is not included")
    if prices.pue is None:
        notes.append("the price list has no PUE: 1 is assumed")
    return notes


def local_cost(workload: Workload, terms: CostTerms) -> LocalCost:
    hours = workload.busy_seconds / SECONDS_PER_HOUR
    idle_hours = hours * (1 - terms.utilization) / terms.utilization
    return LocalCost(
        electricity=workload.joules / JOULES_PER_KWH * terms.per_kwh * terms.pue,
        hardware=hours / terms.utilization * terms.per_hour,
        idle=idle_hours * terms.idle_watts / 1000 * terms.idle_per_kwh * terms.pue,
    )


def api_cost(workload: Workload, price: ApiPrice) -> float:
    per_prompt = price.per_token["prompt"]
    return (
        (workload.prompt_tokens - workload.cached_tokens) * per_prompt
        + workload.cached_tokens * price.per_token.get("cached_prompt", per_prompt)
        + workload.completion_tokens * price.per_token["completion"]
    )


def break_even(workload: Workload, terms: CostTerms, of_api: float) -> BreakEven:
    hours = workload.busy_seconds / SECONDS_PER_HOUR
    electricity = local_cost(workload, terms).electricity
    idle = hours * terms.idle_watts / 1000 * terms.idle_per_kwh * terms.pue
    fixed, room = hours * terms.per_hour + idle, of_api - electricity + idle
    if of_api <= electricity:
        return BreakEven(None, None, "never: the electricity of the tasks alone costs more")
    if not fixed:
        return BreakEven(None, None, "always: no cost of idle time is known")
    share = fixed / room
    if share > 1:
        return BreakEven(None, None, "never: local costs more even when the machine is always busy")
    per_day = workload.tokens / workload.busy_seconds * SECONDS_PER_DAY * share if workload.busy_seconds else None
    return BreakEven(share, per_day, f"local is cheaper when the machine is busy for more than {100 * share:.1f} % of its hours")


def cost_by_utilization(workload: Workload, terms: CostTerms) -> list[tuple[float, float]]:
    """(utilization, local cost of all the tasks)"""
    return [(share, local_cost(workload, replace(terms, utilization=share)).total) for share in SENSITIVITY]


def cost_values(
    arms: Mapping[str, Sequence[Attempt]], prices: PriceList, utilization: float, *, cache: bool = True
) -> dict[str, Any]:
    """The cost section of a report: of all counted attempts of each arm together, and by attempt and by success."""
    workloads = {label: workload_of_attempts(attempts, prices, cache=cache) for label, attempts in arms.items()}
    return {
        "currency": prices.currency,
        "utilization": utilization,
        "as_of": {
            **({"electricity": _day(prices.electricity.as_of)} if prices.electricity else {}),
            **({"hardware": _day(prices.hardware.as_of)} if prices.hardware else {}),
        },
        "time_of_use": bool(prices.time_of_use),
        "apis": [{"model": each.model, "per_token": dict(each.per_token), "as_of": _day(each.as_of)} for each in prices.api],
        "arms": [_arm_values(label, workload, prices, utilization) for label, workload in workloads.items()],
        "not_included": sorted({note for workload in workloads.values() for note in missing_prices(workload, prices)}),
    }


def _arm_values(label: str, workload: Workload, prices: PriceList, utilization: float) -> dict[str, Any]:
    terms = cost_terms(workload, prices, utilization)
    local = local_cost(workload, terms)
    apis = []
    for price in prices.api:
        total = api_cost(workload, price)
        apis.append({"model": price.model, **_per_task(total, workload), **asdict(break_even(workload, terms, total))})
    return {
        "label": label,
        "work": {**asdict(workload), "tokens": workload.tokens, "cached_tokens": workload.cached_tokens},
        "terms": asdict(terms),
        "local": {**asdict(local), **_per_task(local.total, workload)},
        "apis": apis,
        "sensitivity": cost_by_utilization(workload, terms),
    }


def _per_task(total: float, workload: Workload) -> dict[str, float | None]:
    return {
        "total": total,
        "per_task": total / workload.attempts if workload.attempts else None,
        "per_success": total / workload.successes if workload.successes else None,
    }


def _day(unix: float) -> str:
    return f"{datetime.fromtimestamp(unix, tz=timezone.utc):%Y-%m-%d}"
