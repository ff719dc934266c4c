"""The cost section: what the tasks of each arm cost here and from each API of the price list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from joulebench.analysis import cost
from joulebench.analysis.runs import Row
from joulebench.prices import PriceList


def build(arms: Mapping[str, Sequence[Row]], prices: PriceList, utilisation: float) -> dict[str, Any]:
    """Costs are of all counted attempts of an arm together, and by attempt and by success."""
    works = {label: cost.work(rows, prices) for label, rows in arms.items()}
    return {
        "currency": prices.currency,
        "utilisation": utilisation,
        "as_of": {
            **({"electricity": _day(prices.electricity.as_of)} if prices.electricity else {}),
            **({"hardware": _day(prices.hardware.as_of)} if prices.hardware else {}),
        },
        "time_of_use": bool(prices.time_of_use),
        "apis": [{"model": one.model, "per_token": dict(one.per_token), "as_of": _day(one.as_of)} for one in prices.api],
        "arms": [_arm(label, done, prices, utilisation) for label, done in works.items()],
        "left_out": sorted({note for done in works.values() for note in cost.left_unpriced(done, prices)}),
    }


def _arm(label: str, done: cost.Work, prices: PriceList, utilisation: float) -> dict[str, Any]:
    at = cost.terms(done, prices, utilisation)
    here = cost.local(done, at)
    apis = []
    for price in prices.api:
        whole = cost.api(done, price)
        apis.append({"model": price.model, **_each(whole, done), **asdict(cost.break_even(done, at, whole))})
    return {
        "label": label,
        "work": {**asdict(done), "tokens": done.tokens},
        "terms": asdict(at),
        "local": {**asdict(here), **_each(here.total, done)},
        "apis": apis,
        "sensitivity": cost.sensitivity(done, at),
    }


def _each(whole: float, done: cost.Work) -> dict[str, float | None]:
    return {
        "total": whole,
        "per_task": whole / done.attempts if done.attempts else None,
        "per_success": whole / done.successes if done.successes else None,
    }


def _day(unix: float) -> str:
    return f"{datetime.fromtimestamp(unix, tz=timezone.utc):%Y-%m-%d}"
