"""The sections that a session gets: ``gpu_hardware_metrics`` with the client's 43 keys, and beside it how good each number
is.

They are built by the export's own rules, so that a backfilled file and an exported file mean the same by the same name. The
client divides completion tokens by the latency of a call, with queue, load and prefill in it, and calls the latency its time
to first token; under ``generation`` each rate says what it is a rate of, and stands only where its time was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from joulebench import __version__
from joulebench.energy.attribution import TaskAttribution, attribute, attribute_parts
from joulebench.energy.bins import TaskWork
from joulebench.energy.window import WindowEnergy, missing, total, window_energy
from joulebench.mcpworld.client_names import HARDWARE_KEYS
from joulebench.mcpworld.session import Session
from joulebench.mcpworld.telemetry import PROMETHEUS, MonitorLog, SampleSource
from joulebench.parsing import as_float
from joulebench.results.attribution import gpu_parts, llm_calls
from joulebench.results.emissions import FactorSamples
from joulebench.results.fetch import GpuSamples
from joulebench.results.gpu_stats import ratio
from joulebench.results.task_result import ExportContext, task_results
from joulebench.results.timeseries import EMPTY, gauge_stats
from joulebench.schema.result import Event, MeterResult

Sections = dict[str, Any]

FILLED_BY = "filled_by"
CLIENTS_OWN = "gpu_hardware_metrics_before"
"""Where the numbers go that the client itself had put under ``gpu_hardware_metrics``."""
_NOT_WRITTEN = ("schema_version", "metadata", "llm_error_count", "raw_events", "computed_metrics")


def measured_sections(
    session: Session,
    source: SampleSource | None,
    share: TaskAttribution | None,
    no_samples_reason: str,
    meters: Mapping[str, MeterResult],
    *,
    factors: Sequence[FactorSamples] = (),
) -> Sections:
    """Everything that is written into the session's file. ``no_samples_reason``: the reason where there is no source."""
    stored = None if source is None else source.samples
    metered = {session.task.key: meters}
    context = ExportContext(
        str(session.identity), __version__, stored, why_no_samples=no_samples_reason, meters=metered, factors=factors
    )
    is_chosen = bool(session.task.declared_devices or session.task.observed_devices)
    own = frozenset(gpu.uuid for gpu in stored.gpus) if stored is not None and is_chosen else None
    (result,) = task_results([session.task], [own], [share], context)
    used = context.gpus([gpu.uuid or "" for gpu in result.per_gpu])
    record: Sections = msgspec.to_builtins(result)
    del record["path"]
    found: Sections = {"gpu_hardware_metrics": _hardware(session, record["gpu_hardware_metrics"], source)}
    found |= {name: section for name, section in record.items() if name not in _NOT_WRITTEN and name not in found}
    found["measurement"] = _measurement(session, record["measurement"], source)
    found["windows"] = _windows(session, used)
    found["generation"] = generation_rates(session.task.events, session.first_tokens)
    if source is not None and source.name != PROMETHEUS:
        _rename_source(found, source.name)
    finite: Sections = _finite(found)
    return finite


def attribute_sessions(sessions: Sequence[Session], gpus: Sequence[GpuSamples]) -> Mapping[str, TaskAttribution]:
    """By key of the session; two copies of one session share nothing with each other."""
    unique = {str(session.identity): session for session in sessions}
    work = []
    for key, session in unique.items():
        assert session.windows.headline is not None
        start, end = session.windows.headline
        work.append(TaskWork(key, start, end, llm_calls(session.task.events, end)))
    found = attribute({gpu.uuid: gpu.energy for gpu in gpus}, work)
    found = attribute_parts(found, [gpu_parts(session.task) for session in unique.values()])
    return {share.key: share for share in found.tasks}


def _hardware(session: Session, values: Mapping[str, Any] | None, source: SampleSource | None) -> Sections:
    found = {key: (values or {}).get(key) for key in HARDWARE_KEYS}
    if source is None:
        # Without samples there is no count of them.
        return {**found, "sample_count": None}
    return {**found, **_container(session, source.log)}


def _container(session: Session, log: MonitorLog | None) -> Sections:
    start, end = session.windows.headline or (0.0, 0.0)
    series = [log.container_cpu, log.container_mem] if log else [EMPTY, EMPTY]
    cpu, memory = (stats for (stats,) in gauge_stats(series, [(start, end)]))
    return {
        "avg_container_cpu_pct": cpu.mean if cpu else None,
        "max_container_cpu_pct": cpu.high if cpu else None,
        "avg_container_mem_mb": memory.mean if memory else None,
        "peak_container_mem_mb": memory.high if memory else None,
    }


def _measurement(session: Session, measured: Mapping[str, Any], source: SampleSource | None) -> Sections:
    windows = session.windows
    return {
        **measured,
        FILLED_BY: f"joulebench {__version__} backfill",
        "telemetry": None if source is None else source.name,
        "telemetry_file": None if source is None else source.origin,
        "task_key": session.identity.task_key,
        "primary_key": str(session.identity),
        "window": "headline",
        "window_ends_with": windows.ends_with,
        "notes": list(windows.notes),
    }


def _windows(session: Session, gpus: Sequence[GpuSamples]) -> Sections:
    found: Sections = {}
    for name, span in session.windows.named().items():
        if span is None:
            found[name] = None
            continue
        energy = _energy(gpus, *span)
        found[name] = {
            "start": span[0],
            "end": span[1],
            "seconds": span[1] - span[0],
            "joules": energy.joules,
            "low_joules": energy.low,
            "high_joules": energy.high,
            "quality": energy.quality,
            "reasons": list(energy.reasons),
        }
    return found


def _energy(gpus: Sequence[GpuSamples], start: float, end: float) -> WindowEnergy:
    if not gpus:
        return missing("none", ("no_gpu",))
    return total(window_energy(gpu.energy, start, end, method=gpu.method or "counter") for gpu in gpus)


def _rename_source(found: Sections, name: str) -> None:
    """The export knows samples from Prometheus only; these came from elsewhere."""
    found["measurement"]["energy_source"] = name
    found["measurement"]["energy_prometheus"] = None
    for gpu in found["per_gpu"]:
        gpu["energy"]["source"] = name
        gpu["energy_prometheus"] = None
    for call in found.get("calls") or ():
        if call.get("energy_source") == PROMETHEUS:
            call["energy_source"] = name


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity; a number that is neither is not known."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value


DEFINITIONS = {
    "end_to_end_tokens_per_second": "completion tokens / time from request to the end of the reply, over calls that report both",
    "decode_tokens_per_second": "completion tokens after the first / time after the first token, over calls where that was timed",
    "prefill_tokens_per_second": "prompt tokens / prompt evaluation as the server timed it",
    "ttft_ms": "request to first streamed token; absent for replies that came in one piece",
}


def generation_rates(events: Sequence[Event], raw_first_tokens: int) -> dict[str, Any]:
    """``events`` as ``calls.journal_events`` gives them; ``raw_first_tokens``: how many the client stamped."""
    calls = [event for event in events if event["event_type"] == "LLM_QUERY_END" and event.get("status") == "success"]
    timed = [(t, s) for c in calls if (t := _of(c, "completion_tokens")) is not None and (s := _of(c, "duration_seconds"))]
    decoded = [(t, s) for c in calls if (t := _of(c, "decode_tokens")) is not None and (s := _of(c, "decode_seconds"))]
    prefilled = [(t, s) for c in calls if (t := _of(c, "prompt_tokens")) is not None and (s := _of(c, "prefill_seconds"))]
    ttfts = [1000 * t for call in calls if (t := _of(call, "ttft_seconds")) is not None]
    seconds = [s for call in calls if (s := _of(call, "duration_seconds")) is not None]
    return {
        "llm_calls": sum(event["event_type"] == "LLM_QUERY_START" for event in events),
        "llm_calls_finished": len(calls),
        "generation_seconds": sum(seconds) if seconds else None,
        "end_to_end_tokens_per_second": _rate(timed),
        "decode_tokens_per_second": _rate(decoded),
        "decode_timed_calls": len(decoded),
        "prefill_tokens_per_second": _rate(prefilled),
        "prefill_timed_calls": len(prefilled),
        "ttft_measured_calls": len(ttfts),
        "ttft_stamped_with_whole_reply": max(raw_first_tokens - len(ttfts), 0),
        "avg_ttft_ms": sum(ttfts) / len(ttfts) if ttfts else None,
        "min_ttft_ms": min(ttfts, default=None),
        "max_ttft_ms": max(ttfts, default=None),
        "definitions": DEFINITIONS,
    }


def _of(event: Event, name: str) -> float | None:
    return as_float(event.get(name))


def _rate(pairs: Sequence[tuple[float, float]]) -> float | None:
    return ratio(sum(tokens for tokens, _ in pairs), sum(seconds for _, seconds in pairs)) if pairs else None
