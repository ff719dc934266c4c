"""``--prices.file``: what electricity, hardware and API tokens cost, served so that no dashboard carries a price in its queries.

    currency: USD
    electricity: {per_kwh: 0.30, as_of: 2026-11-01}
    hardware: {per_hour: 0.12, as_of: 2026-11-01}                                                       may be left out
    api: [{model: NAME, prompt: 0.25, cached_prompt: 0.025, completion: 2.0, as_of: 2026-06-15, note: TEXT}]   per million tokens

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

from joulebench import catalogue
from joulebench.errors import UserError
from joulebench.families import Sheet
from joulebench.units import JOULES_PER_KWH

SECONDS_PER_HOUR = 3600.0
TOKENS_PER_PRICE = 1_000_000.0
LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class Price:
    """``per_unit``: for one joule or one second. ``as_of``: unix seconds at 0:00 UTC of the day it was looked up."""

    per_unit: float
    as_of: float


@dataclass(frozen=True, slots=True)
class ApiPrice:
    """``per_token``: by kind of token, those of ``catalogue.API_TOKENS`` that the file gives."""

    model: str
    per_token: Mapping[str, float]
    as_of: float


@dataclass(frozen=True, slots=True)
class PriceList:
    currency: str
    electricity: Price | None = None
    hardware: Price | None = None
    api: Sequence[ApiPrice] = ()


def load(path: Path) -> PriceList:
    """Raises UserError for a file that cannot be read or is no price list."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"--prices.file {path}: {error}") from error
    return _PriceFile(path).read(content)


class PricesCollector:
    name = "prices"
    metrics = (catalogue.PRICE_ELECTRICITY, catalogue.PRICE_HARDWARE, catalogue.PRICE_API, catalogue.PRICE_AS_OF)

    def __init__(self, prices: PriceList) -> None:
        self._prices = prices

    def collect(self, sheet: Sheet) -> None:
        prices = self._prices
        for item, metric, price in (
            ("electricity", catalogue.PRICE_ELECTRICITY, prices.electricity),
            ("hardware", catalogue.PRICE_HARDWARE, prices.hardware),
        ):
            if price is not None:
                sheet.value(metric, price.per_unit, (prices.currency,))
                sheet.value(catalogue.PRICE_AS_OF, price.as_of, (item,))
        for api in prices.api:
            for token, value in api.per_token.items():
                sheet.value(catalogue.PRICE_API, value, (api.model, token, prices.currency))
            sheet.value(catalogue.PRICE_AS_OF, api.as_of, (api.model,))


class _PriceFile:
    """The checks; every message names the file and the place in it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, content: object) -> PriceList:
        top = self._mapping(content, "the file", required=("currency",), optional=("electricity", "hardware", "api"))
        currency = top["currency"]
        if not isinstance(currency, str) or not re.fullmatch(r"[A-Z]{3}", currency):
            raise self._wrong("currency", currency, "three capital letters such as USD")
        return PriceList(
            currency,
            electricity=self._single(top, "electricity", "per_kwh", JOULES_PER_KWH),
            hardware=self._single(top, "hardware", "per_hour", SECONDS_PER_HOUR),
            api=tuple(self._apis(top.get("api") or [])),
        )

    def _single(self, top: Mapping[str, Any], key: str, price: str, units: float) -> Price | None:
        if top.get(key) is None:
            return None
        given = self._mapping(top[key], key, required=(price, "as_of"))
        return Price(self._amount(given[price], f"{key}: {price}") / units, self._day(given["as_of"], key))

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
                for token in catalogue.API_TOKENS
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
