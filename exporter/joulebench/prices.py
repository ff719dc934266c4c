"""``--prices.file``: what electricity, hardware and API tokens cost. The exporter serves it and the report reckons with it.

    currency: USD
    electricity: {per_kwh: 0.30, as_of: 2026-11-01}
    hardware: {per_hour: 0.12, as_of: 2026-11-01}                     may be left out; or {price: 1999, years: 3, as_of: ...}
    api: [{model: NAME, prompt: 0.25, cached_prompt: 0.025, completion: 2.0, as_of: 2026-06-15, note: TEXT}]   per million tokens

The report alone also reads ``pue: 1.3`` and, in ``electricity``, what a kWh costs in hours of the day that have their own price:
``time_of_use: [{from: 22, to: 6, per_kwh: 0.18}]`` with ``utc_offset_hours: 1``.

Invariant: a price that the file does not give is absent, never 0. A file with a key or value that cannot be meant is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from joulebench import metrics
from joulebench.errors import UserError
from joulebench.files import load_yaml
from joulebench.units import JOULES_PER_KWH

SECONDS_PER_HOUR = 3600.0
HOURS_PER_YEAR = 365.25 * 24
TOKENS_PER_PRICE = 1_000_000.0
LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class Price:
    """``per_unit``: for one joule or one second. ``as_of``: unix seconds at 0:00 UTC of the day it was looked up."""

    per_unit: float
    as_of: float


@dataclass(frozen=True, slots=True)
class ApiPrice:
    """``per_token``: by kind of token, those of ``metrics.API_TOKENS`` that the file gives."""

    model: str
    per_token: Mapping[str, float]
    as_of: float


@dataclass(frozen=True, slots=True)
class HourPrice:
    """From one hour of the local day to another, over midnight where ``until`` is the smaller."""

    since: float
    until: float
    per_unit: float

    def holds(self, hour: float) -> bool:
        if self.since < self.until:
            return self.since <= hour < self.until
        return hour >= self.since or hour < self.until


@dataclass(frozen=True, slots=True)
class PriceList:
    """``pue``: kWh of the building for one kWh of the machine; None where the file does not say."""

    currency: str
    electricity: Price | None = None
    hardware: Price | None = None
    api: Sequence[ApiPrice] = ()
    time_of_use: Sequence[HourPrice] = ()
    utc_offset_hours: float = 0.0
    pue: float | None = None

    def electricity_at(self, unix: float) -> float | None:
        """Price of a joule at that time."""
        hour = (unix / SECONDS_PER_HOUR + self.utc_offset_hours) % 24
        for one in self.time_of_use:
            if one.holds(hour):
                return one.per_unit
        return self.electricity.per_unit if self.electricity else None

    def mean_electricity(self, start: float, end: float) -> float | None:
        """Mean price of a joule between two unix times, each hour at its own price."""
        borders = {border % 24 for hours in self.time_of_use for border in (hours.since, hours.until)}
        if end <= start or not borders:
            return self.electricity_at(start)
        paid, at = 0.0, start
        while at < end:
            hour = (at / SECONDS_PER_HOUR + self.utc_offset_hours) % 24
            # Half a millisecond into the next price: an hour of a float may lie just before its border.
            until = min(at + (min((border - hour) % 24 or 24.0 for border in borders)) * SECONDS_PER_HOUR + 5e-4, end)
            price = self.electricity_at((at + until) / 2)
            if price is None:
                return None
            paid += price * (until - at)
            at = until
        return paid / (end - start)


def load(path: Path) -> PriceList:
    """Raises UserError for a file that cannot be read or is no price list."""
    try:
        content = load_yaml(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--prices.file {path}: {error}") from error
    return _PriceFile(path).read(content)


class _PriceFile:
    """The checks; every message names the file and the place in it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, content: object) -> PriceList:
        top = self._mapping(content, "the file", required=("currency",), optional=("electricity", "hardware", "api", "pue"))
        currency = top["currency"]
        if not isinstance(currency, str) or not re.fullmatch(r"[A-Z]{3}", currency):
            raise self._wrong("currency", currency, "three capital letters such as USD")
        hours, offset = self._time_of_use(top.get("electricity"))
        return PriceList(
            currency,
            electricity=self._electricity(top.get("electricity")),
            hardware=self._hardware(top.get("hardware")),
            api=tuple(self._apis(top.get("api") or [])),
            time_of_use=hours,
            utc_offset_hours=offset,
            pue=self._pue(top.get("pue")),
        )

    def _electricity(self, content: object) -> Price | None:
        if content is None:
            return None
        optional = ("time_of_use", "utc_offset_hours")
        given = self._mapping(content, "electricity", required=("per_kwh", "as_of"), optional=optional)
        per_joule = self._amount(given["per_kwh"], "electricity: per_kwh") / JOULES_PER_KWH
        return Price(per_joule, self._day(given["as_of"], "electricity"))

    def _time_of_use(self, content: object) -> tuple[tuple[HourPrice, ...], float]:
        given = content if isinstance(content, Mapping) else {}
        offset, entries = given.get("utc_offset_hours", 0), given.get("time_of_use") or []
        if isinstance(offset, bool) or not isinstance(offset, int | float) or not -14 <= offset <= 14:
            raise self._wrong("electricity: utc_offset_hours", offset, "a number from -14 to 14")
        if not isinstance(entries, list):
            raise self._wrong("electricity: time_of_use", entries, "a list of hours")
        return tuple(self._hours(entry, f"electricity: time_of_use, entry {n}") for n, entry in enumerate(entries, 1)), float(
            offset
        )

    def _hours(self, entry: object, where: str) -> HourPrice:
        given = self._mapping(entry, where, required=("from", "to", "per_kwh"))
        since, until = (self._amount(given[name], f"{where}: {name}") for name in ("from", "to"))
        if since > 24 or until > 24 or since == until:
            raise self._wrong(where, f"{since:g} to {until:g}", "two different hours from 0 to 24")
        return HourPrice(since, until, self._amount(given["per_kwh"], f"{where}: per_kwh") / JOULES_PER_KWH)

    def _hardware(self, content: object) -> Price | None:
        if content is None:
            return None
        bought = isinstance(content, Mapping) and "price" in content
        names = ("price", "years") if bought else ("per_hour",)
        given = self._mapping(content, "hardware", required=(*names, "as_of"))
        amount = self._amount(given[names[0]], f"hardware: {names[0]}")
        seconds = SECONDS_PER_HOUR
        if bought:
            seconds *= HOURS_PER_YEAR * self._amount(given["years"], "hardware: years")
            if not seconds:
                raise self._wrong("hardware: years", given["years"], "more than 0")
        return Price(amount / seconds, self._day(given["as_of"], "hardware"))

    def _pue(self, value: object) -> float | None:
        if value is None:
            return None
        pue = self._amount(value, "pue")
        if pue < 1:
            raise self._wrong("pue", value, "1 or more")
        return pue

    def _apis(self, entries: object) -> Iterator[ApiPrice]:
        if not isinstance(entries, list):
            raise self._wrong("api", entries, "a list of models")
        taken = {"electricity", "hardware"}
        for place, entry in enumerate(entries, 1):
            where = f"api, entry {place}"
            optional = ("cached_prompt", "note")
            given = self._mapping(entry, where, required=("model", "prompt", "completion", "as_of"), optional=optional)
            model = given["model"]
            if not isinstance(model, str) or not 0 < len(model) <= LONGEST_NAME or not model.isprintable():
                raise self._wrong(f"{where}: model", model, f"a name of at most {LONGEST_NAME} printable characters")
            if model in taken:
                raise UserError(f"--prices.file {self._path}: {where}: {model!r} is there already; each name once")
            taken.add(model)
            tokens = {
                token: self._amount(given[token], f"{where}: {token}") / TOKENS_PER_PRICE
                for token in metrics.API_TOKENS
                if given.get(token) is not None
            }
            yield ApiPrice(model, tokens, self._day(given["as_of"], where))

    def _mapping(self, value: object, where: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise self._wrong(where, value, f"a mapping with {', '.join(required)}")
        unknown = [str(key) for key in value if key not in (*required, *optional)]
        if unknown:
            known = ", ".join((*required, *optional))
            raise UserError(f"--prices.file {self._path}: {where}: unknown key {', '.join(unknown)}; known are {known}")
        missing = [key for key in required if value.get(key) is None]
        if missing:
            raise UserError(f"--prices.file {self._path}: {where}: {', '.join(missing)} is missing")
        return value

    def _amount(self, value: object, where: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise self._wrong(where, value, "a number, 0 or more")
        return float(value)

    def _day(self, value: object, where: str) -> float:
        if not isinstance(value, date) or isinstance(value, datetime):
            raise self._wrong(f"{where}: as_of", value, "a day such as 2026-11-01, without quotes")
        return datetime(value.year, value.month, value.day, tzinfo=timezone.utc).timestamp()

    def _wrong(self, where: str, value: object, wanted: str) -> UserError:
        return UserError(f"--prices.file {self._path}: {where}: {value!r} is not {wanted}")
