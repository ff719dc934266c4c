"""What a set of tasks costs here and from an API, and how busy the machine must be for the two to be equal.

With u the share of its hours in which the machine works on tasks, all of these hours are paid for by the busy ones:

    local(u) = E + H / u + I (1 - u) / u        E: electricity of the tasks, joules x price x PUE
                                                H: hours of the tasks x price of an hour of the machine
                                                I: hours of the tasks x idle watts x price x PUE
    local(u) = A                                A: the same tokens at the API's prices
    u = (H + I) / (A - E + I)

The page of the report does the same with its sliders. An API is taken to succeed as often as the model did here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from joulebench.analysis.runs import Row
from joulebench.prices import SECONDS_PER_HOUR, ApiPrice, PriceList
from joulebench.units import JOULES_PER_KWH

DEFAULT_UTILISATION = 0.25
SECONDS_PER_DAY = 86_400.0
SENSITIVITY = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, slots=True)
class Work:
    """What was done, over attempts whose joules, time and tokens are known; ``left_out`` counts the others.

    ``busy_seconds``: with at least one task, so that tasks side by side do not pay twice for the machine. ``cached_tokens``: of
    the prompt tokens, None where no server told. ``weighted_price``: of a kWh when it was used; None without a price.
    """

    attempts: int
    successes: int
    left_out: int
    joules: float
    busy_seconds: float
    prompt_tokens: int
    cached_tokens: int | None
    completion_tokens: int
    idle_watts: float | None
    weighted_price: float | None

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Terms:
    """``per_kwh`` and ``per_hour`` in the currency of the list; ``utilisation`` above 0, up to 1; ``idle_watts`` of all GPUs."""

    per_kwh: float
    per_hour: float
    utilisation: float
    pue: float
    idle_watts: float


@dataclass(frozen=True, slots=True)
class Cost:
    electricity: float
    hardware: float
    idle: float

    @property
    def total(self) -> float:
        return self.electricity + self.hardware + self.idle


@dataclass(frozen=True, slots=True)
class BreakEven:
    """``utilisation`` above which local is cheaper; None where it never is, or always, as ``finding`` says."""

    utilisation: float | None
    tokens_per_day: float | None
    finding: str


def work(rows: Sequence[Row], prices: PriceList | None = None) -> Work:
    known = [row for row in rows if None not in (row.joules, row.seconds, row.start, row.prompt_tokens, row.completion_tokens)]
    joules = [(row.start or 0.0, row.joules or 0.0) for row in known]
    cached = [row.cached_tokens for row in known]
    idle = [row.idle_watts for row in known if row.idle_watts is not None]
    return Work(
        attempts=len(known),
        successes=sum(row.success is True for row in known),
        left_out=len(rows) - len(known),
        joules=sum(one for _, one in joules),
        busy_seconds=_busy((row.start or 0.0, (row.start or 0.0) + (row.seconds or 0.0)) for row in known),
        prompt_tokens=sum(row.prompt_tokens or 0 for row in known),
        cached_tokens=sum(one for one in cached if one is not None) if any(one is not None for one in cached) else None,
        completion_tokens=sum(row.completion_tokens or 0 for row in known),
        idle_watts=sum(idle) / len(idle) if idle else None,
        weighted_price=_weighted(joules, prices),
    )


def _busy(windows: Iterable[tuple[float, float]]) -> float:
    seconds, reached = 0.0, float("-inf")
    for start, end in sorted(windows):
        seconds += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return seconds


def _weighted(joules: Sequence[tuple[float, float]], prices: PriceList | None) -> float | None:
    whole = sum(one for _, one in joules)
    if prices is None or prices.electricity is None or not whole:
        return None
    return JOULES_PER_KWH * sum((prices.electricity_at(at) or 0.0) * one for at, one in joules) / whole


def terms(done: Work, prices: PriceList, utilisation: float = DEFAULT_UTILISATION) -> Terms:
    """What the price list says; 0 where it gives no price, which ``left_unpriced`` tells."""
    return Terms(
        per_kwh=done.weighted_price or 0.0,
        per_hour=prices.hardware.per_unit * SECONDS_PER_HOUR if prices.hardware else 0.0,
        utilisation=utilisation,
        pue=1.0 if prices.pue is None else prices.pue,
        idle_watts=done.idle_watts or 0.0,
    )


def left_unpriced(done: Work, prices: PriceList) -> list[str]:
    found = []
    if prices.electricity is None:
        found.append("the price list has no electricity: it is left out")
    if prices.hardware is None:
        found.append("the price list has no hardware: local costs are electricity only")
    if done.idle_watts is None:
        found.append("idle power was not measured: electricity of idle hours is left out")
    if prices.pue is None:
        found.append("the price list has no PUE: taken as 1")
    if done.cached_tokens is None:
        found.append("no server told its cached tokens: the API is reckoned without a cache")
    return found


def local(done: Work, at: Terms) -> Cost:
    hours = done.busy_seconds / SECONDS_PER_HOUR
    idle_hours = hours * (1 - at.utilisation) / at.utilisation
    return Cost(
        electricity=done.joules / JOULES_PER_KWH * at.per_kwh * at.pue,
        hardware=hours / at.utilisation * at.per_hour,
        idle=idle_hours * at.idle_watts / 1000 * at.per_kwh * at.pue,
    )


def api(done: Work, price: ApiPrice) -> float:
    cached = done.cached_tokens or 0
    of_prompt = price.per_token["prompt"]
    return (
        (done.prompt_tokens - cached) * of_prompt
        + cached * price.per_token.get("cached_prompt", of_prompt)
        + done.completion_tokens * price.per_token["completion"]
    )


def break_even(done: Work, at: Terms, api_cost: float) -> BreakEven:
    hours = done.busy_seconds / SECONDS_PER_HOUR
    electricity = local(done, at).electricity
    idle = hours * at.idle_watts / 1000 * at.per_kwh * at.pue
    fixed, room = hours * at.per_hour + idle, api_cost - electricity + idle
    if api_cost <= electricity:
        return BreakEven(None, None, "never: the electricity of the tasks alone costs more")
    if not fixed:
        return BreakEven(None, None, "always: no cost that the machine has while it stands idle is known")
    share = fixed / room
    if share > 1:
        return BreakEven(None, None, "never: the machine is dearer even when it is always busy")
    per_day = done.tokens / done.busy_seconds * SECONDS_PER_DAY * share if done.busy_seconds else None
    return BreakEven(share, per_day, f"local is cheaper when it is busy for more than {100 * share:.1f} % of its hours")


def sensitivity(done: Work, at: Terms) -> list[tuple[float, float]]:
    """(utilisation, local cost of all the tasks)"""
    return [(u, local(done, Terms(at.per_kwh, at.per_hour, u, at.pue, at.idle_watts)).total) for u in SENSITIVITY]
