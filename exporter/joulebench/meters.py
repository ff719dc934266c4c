"""``--meters FILE``: energy meters of CPU, memory, module, host and wall in Prometheus, and what a kWh of them emits.

    meters:
      - name: cpu_package                          names the section and the columns of the meter
        query: node_rapl_package_joules_total      PromQL selector of its series
        kind: counter                              or gauge
        unit: joules                               microjoules to kilowatt_hours; of a gauge milliwatts to kilowatts
        scope: cpu                                 what it measures, one of SCOPES
        interval_seconds: 15                       usual time between two samples
        max_watts: 400                             no single series can draw more
    emissions:
      carbon: {grams_per_kwh: 420, source: "...", date: 2026-10-01, of: cpu}     or a query for a series of it; and water

``docs/METERS.md`` describes every setting. A file with a key or value that cannot be meant is refused.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from joulebench.errors import UserError
from joulebench.files import load_yaml

EVERY_HOST = "*"
HIGHEST_FACTOR = 10_000.0
"""Grams or litres for one kWh. Grids that burn coal are near 1,000 g; what lies above this is a wrong unit."""

SCOPES = ("gpu", "module", "cpu", "dram", "host", "wall", "rack")
"""A module is a board of GPU and CPU (GH200), a host what its power supplies deliver, a wall what they take."""
INSIDE: Mapping[str, frozenset[str]] = {
    "gpu": frozenset(),
    "cpu": frozenset(),
    "dram": frozenset(),
    "module": frozenset(("gpu", "cpu", "dram")),
    "host": frozenset(("gpu", "cpu", "dram", "module")),
    "wall": frozenset(("gpu", "cpu", "dram", "module", "host")),
    "rack": frozenset(("gpu", "cpu", "dram", "module", "host", "wall")),
}
"""Scopes whose joules are part of another scope's; these are never added to it."""

JOULES_PER_UNIT: Mapping[str, float] = {
    "microjoules": 1e-6,
    "millijoules": 1e-3,
    "joules": 1.0,
    "watt_hours": 3600.0,
    "kilowatt_hours": 3.6e6,
}
WATTS_PER_UNIT: Mapping[str, float] = {"milliwatts": 1e-3, "watts": 1.0, "kilowatts": 1e3}

_STRING = r'"(?:[^"\\\n]|\\.)*"'
_MATCHER = rf"\s*[A-Za-z_]\w*\s*(?:=~|!~|!=|=)\s*{_STRING}\s*"
_MATCHERS = rf"{_MATCHER}(?:,{_MATCHER})*,?\s*"
_SELECTOR = re.compile(rf"[A-Za-z_:][\w:]*\s*(?:\{{(?:{_MATCHERS})?\}})?|\{{{_MATCHERS}\}}")

Name = Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,39}$")]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e12)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
Label = Annotated[str, msgspec.Meta(pattern="^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
Scope = Literal["gpu", "module", "cpu", "dram", "host", "wall", "rack"]
Unit = Literal["microjoules", "millijoules", "joules", "watt_hours", "kilowatt_hours", "milliwatts", "watts", "kilowatts"]


class Meter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``host_label``: the label whose value names the host of a series; ``hosts`` translates its values, and ``host`` names the
    host of all series, ``*`` for any. ``device_label``: the label with the UUID of a GPU; then a task has its own GPUs only.

    ``update_seconds``: longest time for which the exporter repeats a value; 0 where it reads the meter when it is scraped.
    ``wraps_at``: the value, in ``unit``, at which a counter begins at 0 again. ``error_ratio``: how far off the sensor may be.
    """

    name: Name
    query: str
    kind: Literal["counter", "gauge"]
    unit: Unit
    scope: Scope
    interval_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)]
    max_watts: Positive
    min_watts: NotNegative = 0.0
    update_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0
    wraps_at: Positive | None = None
    error_ratio: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    host_label: Label = "instance"
    hosts: dict[str, str] = {}
    host: str | None = None
    device_label: Label | None = None
    simulated: bool = False

    @property
    def factor(self) -> float:
        """Joules or watts of one unit."""
        return JOULES_PER_UNIT[self.unit] if self.kind == "counter" else WATTS_PER_UNIT[self.unit]


class EmissionFactor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a kWh emits: a constant, or a series in Prometheus with ``query`` and the usual time between two of its samples.

    ``of``: the joules that it is multiplied with: the name of a meter, a scope, or scopes beside each other joined by ``+``.
    ``source`` and ``date``: who published the factor, and when it held; a series has its own times.
    """

    source: Annotated[str, msgspec.Meta(pattern=r"\S", max_length=300)]
    of: str
    date: datetime.date | None = None
    query: str | None = None
    interval_seconds: Annotated[float, msgspec.Meta(gt=0, le=86400)] | None = None

    @property
    def constant(self) -> float | None:
        """Amount for one kWh; None where it is a series."""
        raise NotImplementedError


PerKwh = Annotated[float, msgspec.Meta(ge=0, le=HIGHEST_FACTOR)]


class CarbonFactor(EmissionFactor, frozen=True, kw_only=True):
    """Grams of CO2 equivalent for one kWh."""

    grams_per_kwh: PerKwh | None = None

    @property
    def constant(self) -> float | None:
        return self.grams_per_kwh


class WaterFactor(EmissionFactor, frozen=True, kw_only=True):
    """Litres of water for one kWh."""

    litres_per_kwh: PerKwh | None = None

    @property
    def constant(self) -> float | None:
        return self.litres_per_kwh


FACTORS: Mapping[str, type[EmissionFactor]] = {"carbon": CarbonFactor, "water": WaterFactor}


class MeterFile(msgspec.Struct, frozen=True, kw_only=True):
    """The meters in the order of the file: of several with one scope the first that knows a task speaks for the scope.

    ``emissions``: factors by kind, those of ``FACTORS`` that the file has.
    """

    meters: tuple[Meter, ...] = ()
    emissions: Mapping[str, EmissionFactor] = {}


def load_meters(path: Path, setting: str = "--meters") -> MeterFile:
    """Raises UserError, which names ``setting`` and the place in the file."""
    where = f"{setting} {path}"
    try:
        content = load_yaml(path)
    except OSError as error:
        raise UserError(f"{where}: {error.strerror}; give a file that can be read") from error
    except ValueError as error:
        problem = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: is not YAML ({problem}); it holds a list 'meters:', as docs/METERS.md shows") from error
    if not isinstance(content, dict) or not isinstance(content.get("meters", [] if "emissions" in content else None), list):
        raise UserError(f"{where}: has no list 'meters:'; docs/METERS.md shows one")
    if unknown := sorted(map(str, set(content) - {"meters", "emissions"})):
        raise UserError(f"{where}: unknown key {', '.join(unknown)}; known are meters and emissions")
    meters: dict[str, Meter] = {}
    for place, entry in enumerate(content.get("meters", ()), 1):
        named = entry.get("name") if isinstance(entry, dict) else None
        at = f"{where}: meters, entry {place}" + (f" ({str(named)[:40]})" if named else "")
        meter = _convert(entry, Meter, at)
        _check_meter(meter, at)
        if meter.name in meters:
            raise UserError(f"{at}: this name is there already; give each meter its own")
        meters[meter.name] = meter
    emissions = _load_emissions(content.get("emissions", {}), meters, f"{where}: emissions")
    return MeterFile(meters=tuple(meters.values()), emissions=emissions)


def _load_emissions(entries: object, meters: Mapping[str, Meter], where: str) -> dict[str, EmissionFactor]:
    if not isinstance(entries, dict) or (unknown := sorted(map(str, set(entries) - set(FACTORS)))):
        given = type(entries).__name__ if not isinstance(entries, dict) else f"unknown key {', '.join(unknown)}"
        raise UserError(f"{where}: {given}; it holds {' and '.join(FACTORS)}, as docs/METERS.md shows")
    factors: dict[str, EmissionFactor] = {}
    for kind, entry in entries.items():
        factors[kind] = _convert(entry, FACTORS[kind], f"{where}, {kind}")
        _check_factor(factors[kind], meters, f"{where}, {kind}")
    return factors


def _check_factor(factor: EmissionFactor, meters: Mapping[str, Meter], where: str) -> None:
    if (factor.constant is None) == (factor.query is None):
        amount = next(name for name in factor.__struct_fields__ if name.endswith("_per_kwh"))
        raise UserError(f"{where}: give either {amount}, a number, or query, the selector of a series of it")
    if factor.query is None:
        if factor.date is None:
            raise UserError(f"{where}: lacks the setting `date`: the day for which its source gives the factor, as 2026-10-01")
        if factor.interval_seconds is not None:
            raise UserError(f"{where}: interval_seconds is for a series; leave it out of a constant")
    else:
        _check_selector(factor.query, where)
        if factor.interval_seconds is None:
            raise UserError(f"{where}: lacks the setting `interval_seconds`: the usual time between two samples of the series")
    if factor.of in meters:
        return
    measured = {"gpu", *(meter.scope for meter in meters.values())}
    if absent := [scope for scope in parse_scopes(factor.of, f"{where}: of") if scope not in measured]:
        raise UserError(f"{where}: of: no meter of the file measures {absent[0]}; add such a meter, or give gpu")


Converted = TypeVar("Converted")


def _convert(value: Any, kind: type[Converted], where: str) -> Converted:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{where}: {_plain_message(str(error))}; docs/METERS.md describes every setting") from error


def _plain_message(message: str) -> str:
    """The message of msgspec with the path of a setting as its name."""
    text, _, path = message.partition(" - at `$.")
    if path:
        return f"{path.rstrip('`')}: {text[0].lower()}{text[1:]}"
    return text.replace("Object missing required field", "lacks the setting").replace(
        "Object contains unknown field", "there is no setting"
    )


def _check_selector(query: str, where: str) -> None:
    if not _SELECTOR.fullmatch(query.strip()):
        raise UserError(
            f"{where}: query {query[:200]!r} is no selector; give the name of a metric, with labels in braces if needed,"
            " and no function, operator or range"
        )


def _check_meter(meter: Meter, where: str) -> None:
    _check_selector(meter.query, where)
    units = JOULES_PER_UNIT if meter.kind == "counter" else WATTS_PER_UNIT
    if meter.unit not in units:
        raise UserError(f"{where}: a {meter.kind} is not in {meter.unit}; its unit is one of {', '.join(units)}")
    if meter.min_watts >= meter.max_watts:
        raise UserError(f"{where}: min_watts {meter.min_watts:g} is not below max_watts {meter.max_watts:g}")
    if meter.wraps_at is not None and meter.kind != "counter":
        raise UserError(f"{where}: wraps_at is for counters; leave it out of a gauge")
    if meter.host is not None and (meter.hosts or not meter.host.strip()):
        raise UserError(f"{where}: host is the host of all series ('*' for any); give either it or hosts, not both")
    if meter.device_label is not None and meter.scope not in ("gpu", "module"):
        raise UserError(f"{where}: device_label is for meters of scope gpu or module, not {meter.scope}")


def parse_scopes(text: str, setting: str = "--scope") -> tuple[str, ...]:
    """Scopes joined by ``+`` whose joules may be added. Raises UserError for scopes that are part of each other."""
    scopes = tuple(dict.fromkeys(word.strip() for word in text.split("+")))
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise UserError(f"{setting}: {unknown[0]!r} is no scope; give one of {', '.join(SCOPES)}, or several as gpu+cpu+dram")
    for outer in scopes:
        for inner in scopes:
            if inner in INSIDE[outer]:
                raise UserError(
                    f"{setting}: {inner} is inside {outer}, so their joules cannot be added; give {outer} alone,"
                    " or scopes beside each other as gpu+cpu+dram"
                )
    return scopes


def is_disjoint(scopes: Collection[str]) -> bool:
    """Whether no scope is part of another one."""
    return not any(inner in INSIDE[outer] for outer in scopes for inner in scopes)
