"""Tasks of exported runs with what the search for limits needs beside a row: calls, GPUs, throttling, VRAM in time.

``Finding`` is how such a search tells what it found: never without its evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from joulebench.analysis import result_files
from joulebench.analysis.runs import Row, row
from joulebench.errors import UserError
from joulebench.parsing import as_float, as_int, as_name


@dataclass(frozen=True, slots=True)
class Finding:
    """``gain``: what mending it would bring, by what estimate; empty where the files do not tell. ``tasks``: the clearest."""

    kind: str
    scope: str
    evidence: str
    gain: str
    next_step: str
    tasks: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        yield f"{self.scope}: {self.kind}"
        yield f"  evidence: {self.evidence}"
        if self.gain:
            yield f"  estimated gain: {self.gain}"
        yield f"  next step: {self.next_step}"
        if self.tasks:
            yield f"  clearest in: {', '.join(self.tasks)}"


@dataclass(frozen=True, slots=True)
class Call:
    """Seconds, tokens, celsius. ``throttled_seconds`` and ``max_temp_c`` are told since results know them by call.

    ``kv_cache_ratio``: share of the server's cache in use at most, ``running_requests``: how many shared it, by its own metrics.
    """

    seconds: float | None
    ttft_seconds: float | None
    prefill_seconds: float | None
    decode_seconds: float | None
    load_seconds: float | None
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    decode_tokens: int | None
    throttled_seconds: float | None
    max_temp_c: float | None
    kv_cache_ratio: float | None = None
    running_requests: float | None = None

    @property
    def held_tokens(self) -> int | None:
        """In the context once the reply is there."""
        return (
            None if self.prompt_tokens is None or self.completion_tokens is None else self.prompt_tokens + self.completion_tokens
        )


@dataclass(frozen=True, slots=True)
class Bounded:
    """``high`` None: no bound is known."""

    value: float
    low: float
    high: float | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU over a task: mean utilisation in percent, peak VRAM in MiB, mean watts, joules.

    ``links``: bytes by link and direction, those that the card counts. ``capped_hz`` and ``max_hz``: SM clock while the power
    limit held it down, and the highest of the card.
    """

    gpu: str
    name: str
    util: float | None
    peak_vram_mib: float | None
    watts: float | None
    joules: float | None
    memory_bytes: float | None = None
    links: Mapping[tuple[str, str], Bounded] = field(default_factory=dict)
    capped_hz: float | None = None
    max_hz: float | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """What the model server told of itself during a task: bytes and tokens of the loaded model, the share of it in GPU memory,
    the mean numbers of requests that it worked on and that waited, and how often it loaded the model."""

    size_bytes: float | None = None
    vram_bytes: float | None = None
    offload_ratio: float | None = None
    context_tokens: float | None = None
    kv_cache_bytes: float | None = None
    running_requests: float | None = None
    waiting_requests: float | None = None
    loads: float | None = None

    @property
    def token_bytes(self) -> float | None:
        """Of one token in the cache, as the shape of the model has it: the mean over the whole context."""
        return self.kv_cache_bytes / self.context_tokens if self.kv_cache_bytes and self.context_tokens else None


@dataclass(frozen=True, slots=True)
class Observed:
    """``throttled_by_reason``: seconds. ``vram_fifths``: mean MiB of all GPUs in each fifth of the task."""

    row: Row
    calls: tuple[Call, ...]
    gpus: tuple[Gpu, ...]
    throttled_by_reason: Mapping[str, float]
    vram_fifths: tuple[float, ...]
    server: Server = field(default_factory=Server)

    @property
    def busiest(self) -> float | None:
        """Utilisation of the GPU that worked most, in percent; None where one of them is not known."""
        utils = [gpu.util for gpu in self.gpus]
        known = [util for util in utils if util is not None]
        return max(known) if known and len(known) == len(utils) else None


def read(directories: Iterable[Path]) -> list[Observed]:
    """Raises UserError for a directory without result files."""
    found: list[Observed] = []
    for directory in directories:
        of_run = [_observed(path, record) for path, record in result_files.read(directory)]
        if not of_run:
            raise UserError(
                f"{directory}: no {result_files.PATTERN}; export the run first, then give its directory, as runs/RUN_ID"
            )
        found += of_run
    return found


def by_model(tasks: Sequence[Observed]) -> dict[str, list[Observed]]:
    return {model: [one for one in tasks if one.row.model == model] for model in sorted({one.row.model for one in tasks})}


def _observed(path: Path, record: Mapping[str, Any]) -> Observed:
    try:
        hardware = record.get("gpu_hardware_metrics") or {}
        slowed = (record.get("throttle") or {}).get("seconds_by_reason") or {}
        fifths = [as_float(hardware.get(f"avg_vram_q{part}_mb")) for part in range(1, 6)]
        known = [value for value in fifths if value is not None]
        return Observed(
            row=row(path, record),
            calls=tuple(_call(one) for one in _calls(record)),
            gpus=tuple(_gpu(one) for one in record.get("per_gpu") or ()),
            throttled_by_reason={name: value for name, told in slowed.items() if (value := as_float(told)) is not None},
            vram_fifths=tuple(known) if len(known) == len(fifths) else (),
            server=_server(record.get("model_server") or {}),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise result_files.wrong(path, repr(error)) from error


def _calls(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Rows of the calls; of a file written before there were any, the events that ended them, which name the same."""
    found = record.get("calls")
    return found if isinstance(found, list) else [one for one in record["raw_events"] if one["event_type"] == "LLM_QUERY_END"]


def _call(told: Mapping[str, Any]) -> Call:
    return Call(
        seconds=as_float(told.get("duration_seconds")),
        ttft_seconds=as_float(told.get("ttft_seconds")),
        prefill_seconds=as_float(told.get("prefill_seconds")),
        decode_seconds=as_float(told.get("decode_seconds")),
        load_seconds=as_float(told.get("load_seconds")),
        prompt_tokens=as_int(told.get("prompt_tokens")),
        cached_tokens=as_int(told.get("cached_tokens")),
        completion_tokens=as_int(told.get("completion_tokens")),
        decode_tokens=as_int(told.get("decode_tokens")),
        throttled_seconds=as_float(told.get("throttled_seconds")),
        max_temp_c=as_float(told.get("max_temp_c")),
        kv_cache_ratio=as_float(told.get("kv_cache_ratio")),
        running_requests=as_float(told.get("running_requests")),
    )


def _server(told: Mapping[str, Any]) -> Server:
    return Server(**{one.name: as_float(told.get(one.name)) for one in fields(Server)})


def _gpu(told: Mapping[str, Any]) -> Gpu:
    clock = told.get("power_capped_clock") or {}
    util, vram, power = (told.get(name) or {} for name in ("util_pct", "vram_mb", "power_w"))
    return Gpu(
        gpu=as_name(told.get("gpu")) or "",
        name=as_name(told.get("name")) or "",
        util=as_float(util.get("mean")),
        peak_vram_mib=as_float(vram.get("high")),
        watts=as_float(power.get("mean")),
        joules=as_float((told.get("energy") or {}).get("joules")),
        memory_bytes=as_float(told.get("memory_total_bytes")),
        links=_links(told.get("link_bytes") or {}),
        capped_hz=as_float(clock.get("capped_hz")),
        max_hz=as_float(clock.get("max_hz")),
    )


def _links(told: Mapping[str, Any]) -> dict[tuple[str, str], Bounded]:
    found = {}
    for link, directions in told.items():
        for direction, one in directions.items():
            if (value := as_float(one.get("bytes"))) is not None:
                found[link, direction] = Bounded(value, as_float(one.get("low")) or 0.0, as_float(one.get("high")))
    return found
