"""The exporter's window energy API: ``GET /api/v1/energy?start=&end=&wait=``.

What the exporter does not know is null there and None here; an answer that is not of this form is an error, never a 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from joulebench.clients.connection import HttpClient, RequestFailed
from joulebench.errors import EnergyApiError, EnergyRefused
from joulebench.metrics import THROTTLE_REASONS
from joulebench.parsing import as_float
from joulebench.settings import ConnectionSettings, Url, connection_settings
from joulebench.units import Joules, Seconds

MAX_RESPONSE_BYTES = 1 << 26
MAX_RESPONSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class GpuWindow:
    """One GPU over the window. ``low`` and ``high`` are bounds that the counter guarantees; None where it cannot.

    ``throttled``: seconds by reason, only those that are known; an exporter of an earlier version gives none.
    """

    gpu: str
    uuid: str
    joules: Joules | None
    low: Joules | None
    high: Joules | None
    quality: str
    throttled: Mapping[str, Seconds] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EnergyAnswer:
    """``source``: nvml, simulated or none. ``raw_gpus`` and ``raw_total`` are the answer's own objects, for the journal."""

    source: str
    gpus: tuple[GpuWindow, ...]
    raw_gpus: list[Any]
    raw_total: Mapping[str, Any]


class ExporterApi:
    """For one thread. ``timeout`` is in seconds and comes on top of the wait that is asked for."""

    def __init__(self, url: str | Url, timeout: float = 2.0, settings: ConnectionSettings | None = None) -> None:
        self.url = url if isinstance(url, Url) else Url.parse(url, "--exporter-url")
        self._client = HttpClient(
            self.url,
            timeout,
            settings=settings or connection_settings("exporter"),
            max_bytes=MAX_RESPONSE_BYTES,
            max_seconds=MAX_RESPONSE_SECONDS,
        )

    def energy(self, start: Seconds, end: Seconds, wait: float = 0.0) -> EnergyAnswer:
        """Energy between two unix times; waits up to ``wait`` seconds for the counter to pass the end.

        Raises EnergyApiError, or EnergyRefused where asking again would be of no use.
        """
        parameters = {"start": repr(float(start)), "end": repr(float(end)), "wait": repr(float(wait))}
        try:
            response = self._client.request("GET", "/api/v1/energy", params=parameters, extra_seconds=wait)
        except RequestFailed as error:
            raise EnergyApiError(f"{self.url}: {error}") from error
        if response.status != 200:
            kind = EnergyRefused if response.status == 400 else EnergyApiError
            hint = self._client.refusal_hint(response.status, response.shown_text)
            raise kind(f"{self.url}/api/v1/energy: {response.status} {response.shown_text}{hint}")
        try:
            return _parse_answer(response.json())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EnergyApiError(f"{self.url}/api/v1/energy: an answer that cannot be read ({error})") from error

    def close(self) -> None:
        self._client.close()


def _parse_answer(body: Any) -> EnergyAnswer:
    gpus = tuple(
        GpuWindow(
            gpu=str(gpu["gpu"]),
            uuid=str(gpu["uuid"]),
            joules=_joules(gpu, "joules"),
            low=_joules(gpu, "low"),
            high=_joules(gpu, "high"),
            quality=str(gpu["quality"]),
            throttled=_throttled(gpu.get("throttled_seconds") or {}),
        )
        for gpu in body["gpus"]
    )
    if not isinstance(body["total"], Mapping):
        raise TypeError("total is no object")
    return EnergyAnswer(source=str(body["source"]), gpus=gpus, raw_gpus=list(body["gpus"]), raw_total=body["total"])


def _joules(gpu: Mapping[str, Any], name: str) -> Joules | None:
    value = _number(name, gpu[name])
    return None if value is None else Joules(value)


def _throttled(seconds_by_reason: Mapping[str, Any]) -> dict[str, Seconds]:
    """Seconds by reason, of the reasons that this version knows; unknown ones are left out."""
    seconds = {reason: _number(f"throttled_seconds.{reason}", seconds_by_reason.get(reason)) for reason in THROTTLE_REASONS}
    if any(value is not None and value < 0 for value in seconds.values()):
        raise ValueError(f"throttled_seconds are {dict(seconds_by_reason)!r}")
    return {reason: Seconds(value) for reason, value in seconds.items() if value is not None}


def _number(name: str, value: Any) -> float | None:
    number = as_float(value)
    if value is not None and number is None:
        raise TypeError(f"{name} is {value!r}")
    return number
