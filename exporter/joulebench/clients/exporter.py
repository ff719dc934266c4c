"""The exporter's window energy API: ``GET /api/v1/energy?start=&end=&wait=``.

What the exporter does not know is null there and None here; an answer that is not of this form is an error, never a 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import requests

from joulebench.clients.session import session_for, told
from joulebench.errors import EnergyApiError, EnergyRefused
from joulebench.metrics import THROTTLE_REASONS
from joulebench.units import Joules, Seconds


@dataclass(frozen=True, slots=True)
class GpuWindow:
    """One GPU over the window. ``low`` and ``high`` are bounds that the counter guarantees; None where it cannot.

    ``throttled``: seconds by reason, only those that are known; an exporter of an earlier version tells none.
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

    def __init__(self, url: str, timeout: float = 2.0) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._session = session_for(self.url)

    def energy(self, start: Seconds, end: Seconds, wait: float = 0.0) -> EnergyAnswer:
        """Energy between two unix times; waits up to ``wait`` seconds for the counter to pass the end.

        Raises EnergyApiError, or EnergyRefused where asking again would be of no use.
        """
        parameters = {"start": repr(float(start)), "end": repr(float(end)), "wait": repr(float(wait))}
        try:
            response = self._session.get(f"{self.url}/api/v1/energy", params=parameters, timeout=self._timeout + wait)
        except requests.RequestException as error:
            raise EnergyApiError(f"{self.url}: {told(error)}") from error
        if response.status_code != 200:
            kind = EnergyRefused if response.status_code == 400 else EnergyApiError
            raise kind(f"{self.url}/api/v1/energy: {response.status_code} {response.text.strip()[:500]}")
        try:
            return _answer(response.json())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EnergyApiError(f"{self.url}/api/v1/energy: an answer that cannot be read ({error})") from error

    def close(self) -> None:
        self._session.close()


def _answer(body: Any) -> EnergyAnswer:
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


def _throttled(told: Mapping[str, Any]) -> dict[str, Seconds]:
    """Of the reasons that this version knows."""
    found = {reason: _number(f"throttled_seconds.{reason}", told.get(reason)) for reason in THROTTLE_REASONS}
    if any(value is not None and value < 0 for value in found.values()):
        raise ValueError(f"throttled_seconds are {dict(told)!r}")
    return {reason: Seconds(value) for reason, value in found.items() if value is not None}


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{name} is {value!r}")
    return float(value)
