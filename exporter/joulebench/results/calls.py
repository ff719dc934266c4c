"""The LLM calls of a task, each with its tokens, times and joules, and what a token and a call cost.

A call's joules are the exporter's answer for its window, else read from the stored samples; calls that overlapped share each
moment evenly. Joules of a token are those of its phase, prefill or decode, over the tokens that this phase worked on. Where tasks
overlapped, a window holds the work of others too, and there is no such figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from joulebench.energy.curve import EnergyCurve
from joulebench.energy.window import QUALITIES, WindowEnergy, total
from joulebench.parsing import as_dict, as_float, as_int, as_list, as_name, sum_or_none
from joulebench.results.attribution import answered_calls, answered_curves, computed_prompt_tokens
from joulebench.results.gpu_stats import GpuReadings, ratio
from joulebench.results.journal import energy_parts, throttled_seconds
from joulebench.results.server_metrics import ServerMetrics
from joulebench.results.task import Task
from joulebench.results.throttle import call_throttling
from joulebench.schema import events
from joulebench.schema.reasons import Reason
from joulebench.schema.result import CallResult, Efficiency, Event, PhaseResult

COMPUTED, EFFECTIVE = "computed", "effective"
"""Prompt tokens less those from the server's cache, where every call has both; else all of them, cached or not."""
TOLERANCE_JOULES = 0.01

_TIMES = ("duration_seconds", "ttft_seconds", "prefill_seconds", "decode_seconds", "load_seconds")
_COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens", "decode_tokens", "streamed_tokens", "choices")


def call_results(
    task: Task, gpus: Sequence[GpuReadings], task_throttled: float | None, servers: ServerMetrics
) -> list[CallResult]:
    """In the order in which the calls began; one that never ended has its start only. ``task_throttled``: seconds of the task."""
    ends = {event.get("call"): event for event in task.events if event["event_type"] == events.LLM_QUERY_END}
    answers = {event.get("call"): event for event in task.call_energy}
    answered = answered_calls(task)
    stored = zip(*(gpu.calls for gpu in gpus), strict=True)
    found = []
    for begun in task.events:
        if begun["event_type"] != events.LLM_QUERY_START:
            continue
        ended, answer = ends.get(begun.get("call")), answers.get(begun.get("call"))
        start, end = float(begun["timestamp"]), float(ended["timestamp"]) if ended else None
        is_stored = end is not None and end >= start and begun.get("call") not in answered
        energies = next(stored, ()) if is_stored else ()
        call = _call(begun, ended or {}, start, end, task_throttled)
        _add_energy(call, answer, energies)
        if end is not None and task_throttled:
            samples = [gpu.samples for gpu in gpus]
            slowed = call_throttling(samples, start, end, task_throttled, dict(_answered_throttling(answer)))
            call.throttled_seconds, call.max_temp_c = slowed
        if end is not None:
            call.kv_cache_ratio, call.running_requests = servers.of_call(task.values.model_name, start, end)
        found.append(call)
    _share_overlaps(task, found, answers, gpus)
    return found


def _call(begun: Event, ended: Event, start: float, end: float | None, task_throttled: float | None) -> CallResult:
    values: dict[str, Any] = {name: as_float(ended.get(name)) for name in _TIMES}
    values.update({name: as_int(ended.get(name)) for name in _COUNTS})
    return CallResult(
        call=begun.get("call"),
        model_name=begun.get("model_name"),
        start=start,
        end=end,
        status=as_name(ended.get("status")),
        error=as_name(ended.get("error")),
        usage_problem=as_name(ended.get("usage_problem")),
        computed_tokens=computed_prompt_tokens(ended),
        throttled_seconds=None if end is None else task_throttled,
        **values,
    )


def _add_energy(call: CallResult, answer: Event | None, stored: Sequence[WindowEnergy]) -> None:
    """The exporter's answer, unless it knows nothing and the store has samples."""
    answered = answer.get("total") if answer else None
    if isinstance(answered, dict) and (as_float(answered.get("joules")) is not None or not stored):
        call.joules, call.low_joules, call.high_joules = (as_float(answered.get(name)) for name in ("joules", "low", "high"))
        call.quality, call.energy_source = as_name(answered.get("quality")), "exporter"
        call.reasons = [str(reason) for reason in as_list(answered.get("reasons"))]
    elif stored:
        energy = total(stored)
        call.joules, call.low_joules, call.high_joules = energy.joules, energy.low, energy.high
        call.quality, call.reasons, call.energy_source = energy.quality, list(energy.reasons), "prometheus"


def _share_overlaps(
    task: Task, calls: Sequence[CallResult], answers: Mapping[object, Event], gpus: Sequence[GpuReadings]
) -> None:
    """Gives calls that ran at the same time as others their shares: as they were journaled, else by the curve of the exporter's
    answers and the stored samples."""
    for call in calls:
        call.window_joules = call.joules
    own = {id(call): as_dict(answers[call.call].get("share")) for call in calls if "share" in answers.get(call.call, {})}
    together = _overlapping(calls)
    divided = _divide_evenly(together, _energy_curves(task, gpus)) if any(id(call) not in own for call in together) else {}
    for call in calls:
        share = own.get(id(call))
        if share is not None:
            call.joules, call.low_joules = as_float(share.get("joules")), as_float(share.get("low"))
            call.high_joules = as_float(share.get("high"))
        elif id(call) in divided:
            call.joules, source = divided[id(call)]
            call.low_joules, call.energy_source = None, source if call.joules is not None else call.energy_source
        if id(call) not in divided and (share is None or share.get("exclusive") is True):
            continue
        call.reasons = [*call.reasons, Reason.CALLS_OVERLAP]
        call.quality = "missing" if call.joules is None else max(call.quality or "ok", "suspect", key=QUALITIES.index)


def _energy_curves(task: Task, gpus: Sequence[GpuReadings]) -> list[EnergyCurve]:
    """Of each GPU of the task."""
    stored = {gpu.samples.uuid: gpu.samples for gpu in gpus}
    answers = [event for event in (*task.call_energy, task.task_energy) if event is not None]
    counters = {answer.uuid for answer in task.exporter_energy} or (stored.keys() if stored else None)
    return list(answered_curves(stored, answers, counters).values())


def _overlapping(calls: Sequence[CallResult]) -> list[CallResult]:
    """Calls during which another one ran, in the order in which they began."""
    found: dict[int, CallResult] = {}
    latest: CallResult | None = None
    for call in sorted((one for one in calls if one.start is not None and one.end is not None), key=_start_of):
        if latest is not None and latest.end is not None and _start_of(call) < latest.end:
            found[id(latest)], found[id(call)] = latest, call
        if latest is None or latest.end is None or (call.end or 0.0) > latest.end:
            latest = call
    return sorted(found.values(), key=_start_of)


def _start_of(call: CallResult) -> float:
    return call.start or 0.0


def _divide_evenly(calls: Sequence[CallResult], curves: Sequence[EnergyCurve]) -> dict[int, tuple[float | None, str]]:
    """(joules, their source) of each of these calls by its ``id``, each moment divided evenly among those that ran; None where
    not known. ``curves``: of each GPU."""
    edges = sorted({edge for call in calls for edge in (call.start, call.end) if edge is not None})
    if not curves or not edges:
        return {id(call): (None, "prometheus") for call in calls}
    used = np.sum([np.diff(curve.joules_at(edges)) for curve in curves], axis=0)
    known = np.all([curve.is_whole(edges[:-1], edges[1:]) for curve in curves], axis=0)
    answered = np.all([curve.answered(edges[:-1], edges[1:]) for curve in curves], axis=0)
    places = {edge: place for place, edge in enumerate(edges)}
    spans = {id(call): range(places[_start_of(call)], places[call.end or 0.0]) for call in calls}
    running = Counter(place for span in spans.values() for place in span)
    shares: dict[int, tuple[float | None, str]] = {}
    for key, span in spans.items():
        is_known = all(known[place] for place in span)
        joules = float(sum(used[place] / running[place] for place in span)) if is_known else None
        shares[key] = joules, "exporter" if all(answered[place] for place in span) else "prometheus"
    return shares


def _answered_throttling(answer: Event | None) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Throttled seconds by reason in the exporter's answer for a call, by UUID."""
    for row in as_list(answer.get("gpus")) if answer else ():
        if isinstance(row, dict):
            yield str(row.get("uuid", "")), throttled_seconds(row)


def answered_stretches(task: Task, calls: Sequence[CallResult]) -> list[tuple[float, float, float]]:
    """Start, end and joules of each call, cut where its phase changed, if the exporter answered for every call; else none."""
    answers = {event.get("call"): event for event in task.call_energy}
    stretches: list[tuple[float, float, float]] = []
    for call in calls:
        if call.start is None or call.end is None or call.joules is None or call.energy_source != "exporter":
            return []
        parts = energy_parts(answers.get(call.call, {}))
        if abs(sum(part.joules for part in parts) - call.joules) <= TOLERANCE_JOULES:
            stretches += [(part.start, part.end, part.joules) for part in parts]
        else:
            stretches.append((call.start, call.end, call.joules))
    return stretches


def calls_exceed_task(calls: Sequence[CallResult], task_high: float | None) -> list[str]:
    """A reason where calls that did not overlap surely took more than their whole task."""
    known = sorted(
        (call.start, call.end, call.low_joules)
        for call in calls
        if call.start is not None and call.end is not None and call.low_joules is not None
    )
    apart = all(a[1] <= b[0] for a, b in pairwise(known))
    exceed = task_high is not None and apart and sum(low for _, _, low in known) > task_high + TOLERANCE_JOULES
    return [Reason.CALLS_EXCEED_TASK] if exceed else []


def efficiency(
    task: Task, calls: Sequence[CallResult], phases: Mapping[str, PhaseResult] | None, overlap_fraction: float | None
) -> Efficiency:
    """Joules by token, call and waiting for tools; none where tasks overlapped."""
    alone = not overlap_fraction
    prefill, decode, tool_wait = (
        phases[phase].joules if alone and phases else None for phase in ("prefill", "decode", "tool_wait")
    )
    prompt_tokens, basis = _prompt_tokens(calls) if prefill is not None else (None, None)
    decode_tokens = _decode_tokens(calls) if decode is not None else None
    joules = [call.joules for call in calls if call.joules is not None]
    lacks_calls = Reason.REQUESTS_NOT_JOURNALED in task.reasons
    if lacks_calls:
        joules = []
    pushed = task.pushed_call_energy if lacks_calls or not calls else None
    per_call = sum(joules) / len(joules) if joules else ratio(pushed[1], pushed[0]) if pushed else None
    notes = {phase: phases[phase].notes for phase in ("prefill", "decode", "tool_wait")} if phases else {}
    return Efficiency(
        joules_per_prompt_token=ratio(prefill, prompt_tokens),
        prompt_tokens=prompt_tokens,
        prompt_token_basis=basis,
        joules_per_decode_token=ratio(decode, decode_tokens),
        decode_tokens=decode_tokens,
        joules_per_call=per_call if alone else None,
        calls_with_energy=len(joules) or (pushed[0] if pushed else 0),
        call_energy_joules=(sum(joules) if joules else pushed[1] if pushed else None)
        if alone or _all_shared(task, calls)
        else None,
        tool_wait_joules=tool_wait,
        notes={**notes, "calls": sorted({reason for call in calls if call.joules is not None for reason in call.reasons})},
        reason=None if alone else Reason.OVERLAP,
    )


def _all_shared(task: Task, calls: Sequence[CallResult]) -> bool:
    """Whether the energy of every call is a share among all requests of the proxy, so that those of several tasks add up."""
    with_share = {event.get("call") for event in task.call_energy if "exclusive" in as_dict(event.get("share"))}
    return task.counted_by_proxy or (bool(calls) and all(call.call in with_share for call in calls))


def _prompt_tokens(calls: Sequence[CallResult]) -> tuple[int | None, str | None]:
    """Those that the prefill phase worked on; None where it holds the work of a call that does not report how many."""
    split = [call for call in calls if call.prefill_seconds is not None or call.ttft_seconds is not None]
    computed = sum(call.computed_tokens for call in split if call.computed_tokens is not None)
    if all(call.computed_tokens is not None for call in split):
        return computed, COMPUTED
    prompts = sum_or_none(call.prompt_tokens for call in split)
    return (None, None) if prompts is None else (prompts, EFFECTIVE)


def _decode_tokens(calls: Sequence[CallResult]) -> int | None:
    split = [call for call in calls if call.decode_seconds is not None or call.ttft_seconds is not None]
    tokens: int | None = sum_or_none(call.decode_tokens for call in split) if split else 0
    return tokens
