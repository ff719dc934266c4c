"""Tasks in batches: what the records of a batch read of the samples is computed for all of it at once, and forgotten after it.

Only speed and memory depend on this module; a number that it did not compute ahead is computed when it is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise

from joulebench.energy.calls import pieces
from joulebench.results import ahead
from joulebench.results.gpu_samples import GpuSamples
from joulebench.results.hardware import parts
from joulebench.results.ownership import Gpus
from joulebench.results.points import Columns
from joulebench.results.record import Context
from joulebench.results.shares import llm_calls, tool_spans
from joulebench.results.task import Task, TaskKey

SIZE = 500

Window = tuple[float, float]


def batches(tasks: Sequence[Task], own: Mapping[TaskKey, Gpus | None], context: Context) -> Iterator[Sequence[Task]]:
    """``own``: uuids of the GPUs of each task, None where not known."""
    for begin in range(0, len(tasks), SIZE):
        batch = tasks[begin : begin + SIZE]
        for uuids in {own[task.key] for task in batch}:
            gpus = [gpu for gpu in context.samples.gpus if uuids is None or gpu.uuid in uuids] if context.samples else []
            _look_ahead([task for task in batch if own[task.key] == uuids], gpus, context)
        yield batch
        if context.samples:
            forget(context.samples.gpus, context)


def look_at_edges(tasks: Sequence[Task], gpus: Iterable[GpuSamples]) -> None:
    """What the books of the run read: energies at the edges of the tasks, and of their work where tasks overlap."""
    known = sorted(window for task in tasks if (window := task.window) is not None)
    edges = set(chain.from_iterable(known))
    if any(later[0] < earlier[1] for earlier, later in pairwise(known)):
        edges.update(chain.from_iterable(map(_work_edges, tasks)))
    for gpu in gpus:
        ahead.energies(gpu.energy, edges)


def forget(gpus: Iterable[GpuSamples], context: Context) -> None:
    for gpu in gpus:
        view = gpu.energy.around(0.0, 0.0)
        view.energies.clear()
        view.windows.clear()
    for series in context.columns():
        series.known.clear()


def _look_ahead(tasks: Sequence[Task], gpus: Sequence[GpuSamples], context: Context) -> None:
    windows = [window for task in tasks if (window := task.window) is not None]
    calls = list(chain.from_iterable(map(_call_windows, tasks)))
    split = [part for window in windows for count in (2, 5) for part in parts(*window, count)]
    edges = set(chain.from_iterable((*windows, *split, *calls)))
    edges.update(chain.from_iterable(map(_work_edges, tasks)))
    for gpu in gpus:
        ahead.energies(gpu.energy, edges)
        ahead.windows(gpu.energy, (*windows, *calls), gpu.method or "counter")
    folded = context.gauges(gpus)
    ahead.statistics((one for gauges in (folded, *(context.gauges([gpu]) for gpu in gpus)) for one in gauges.columns), windows)
    ahead.statistics([Columns.of(folded.vram)], split)


def _call_windows(task: Task) -> Iterator[Window]:
    began = {event.get("call"): event["timestamp"] for event in task.events if event["event_type"] == "LLM_QUERY_START"}
    for event in task.events:
        if event["event_type"] == "LLM_QUERY_END" and (start := began.get(event.get("call"))) is not None:
            yield start, event["timestamp"]


def _work_edges(task: Task) -> Collection[float]:
    if task.window is None:
        return ()
    start, end = task.window
    spans = [(piece.start, piece.end) for call in llm_calls(task.events, end) for piece in pieces(call)]
    return [min(max(edge, start), end) for span in (*spans, *tool_spans(task.events, end)) for edge in span]
