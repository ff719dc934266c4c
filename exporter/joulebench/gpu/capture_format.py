"""What a capture holds, and how it becomes a file: one machine's NVML answers, to be attached to a bug report and replayed.

Format 1 is described in tests/captures/README.md; a change of meaning raises the number. A capture names no host, user or
process, and a card by a hash of its UUID unless its owner wants it otherwise. ``None`` is "not known", never 0.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

FORMAT = "joulebench-capture"
VERSION = 1

LABELS = ("idle", "load")


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, 5th and 95th percentile."""

    median: float
    p5: float
    p95: float


@dataclass(frozen=True, slots=True)
class CallCapture:
    """``code``: NVML's return. ``answer``: as NVML gave it the last time, in its own units; None where the code is not 0."""

    function: str
    arguments: Sequence[int]
    code: int
    answer: Any
    microseconds: Spread | None


@dataclass(frozen=True, slots=True)
class FieldCapture:
    """``code``: of the call, or where that is 0 of the field in it. ``type``: NVML's value type."""

    field: int
    code: int
    type: int | None
    value: int | None
    microseconds: Spread | None


@dataclass(frozen=True, slots=True)
class EnergyCapture:
    """What the sensor made of the answers over the recording. ``step_seconds``: between two changes of the counter, known to
    within ``poll_seconds``. ``counter_joules`` and ``power_joules``: from the first change to the last, by the counter and by the
    integral of the power shown. ``series``: [seconds, joules, watts] at each change."""

    seconds: float
    polls: int
    poll_seconds: float
    changes: int
    step_seconds: Spread | None
    counter_joules: float | None
    power_joules: float | None
    ratio: float | None
    fast_read_microseconds: Spread | None
    slow_read_microseconds: Spread | None
    failures: Sequence[str]
    series: Sequence[Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class GpuCapture:
    """``error``: why the sensor does not take this card, if it does not."""

    index: int
    name: str
    uuid: str | None
    error: str | None
    calls: Sequence[CallCapture]
    fields: Sequence[FieldCapture]
    energy: EnergyCapture | None


@dataclass(frozen=True, slots=True)
class Capture:
    """``origin``: ``recorded`` on a machine, or ``synthetic``. ``recorded_at``: unix seconds."""

    origin: str
    label: str | None
    recorded_at: float | None
    joulebench: str | None
    binding: str | None
    driver: str
    gpus: Sequence[GpuCapture]


def text_of(capture: Capture) -> str:
    """JSON, with rows of numbers on one line each."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **asdict(capture)}, indent=1)
    return re.sub(r"\[\s+([^\[\]{}\"]*?)\s+\]", _on_one_line, text) + "\n"


def _on_one_line(row: re.Match[str]) -> str:
    return f"[{' '.join(row[1].split())}]"


def file_name(capture: Capture) -> str:
    """``<gpu>__<driver>__<label>.json``, with the number of GPUs in front where there are several."""
    names = list(dict.fromkeys(_slug(gpu.name) for gpu in capture.gpus))
    many = f"{len(capture.gpus)}x-" if len(capture.gpus) > 1 else ""
    return f"{many}{'+'.join(names)}__{_slug(capture.driver)}__{capture.label or 'unlabelled'}.json"


def masked(uuid: str) -> str:
    """The same for the same card, and no way back: a UUID is too long to be guessed."""
    return f"GPU-masked-{hashlib.sha256(f'joulebench:{uuid}'.encode()).hexdigest()[:16]}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "unknown"
