"""What the energy of a task was spent on: decode, prefill, load, LLM time that is not split, waiting for tools, other.

The window is cut at the edges of all calls and tools, and each moment goes to the first of ``PHASES`` that is under way, so what
runs in parallel counts once. All parts are differences of one cumulative curve: they add up to the whole window. Idle is no phase
but a floor under all of them, and stands beside them, never subtracted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import fsum, isnan

import numpy as np

from joulebench.energy.calls import PARTS, UNSPLIT, LlmCall, pieces, reported_parts
from joulebench.energy.curve import COVERAGE_NEEDED, GAP_FACTOR, LOST_STEPS, EnergyCurve
from joulebench.energy.estimator import window_energies
from joulebench.energy.trace import EnergySource, energy_curve
from joulebench.energy.window import SHORT_WIDTH, WindowEnergy

PHASES = (*PARTS, UNSPLIT, "tool_wait", "other")
"""By priority: a moment in which several go on belongs to the first of them."""
SHORT_STEPS = 2.0
"""A phase whose stretches last fewer counter steps than this on average is only as good as the edge split."""

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the window that belongs to one phase; seconds."""

    phase: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """The window cut into phases, in order and without holes. ``places``: of the spans of each phase that has any.

    ``edges``: of the spans, from start to end. ``seconds``: by phase. ``notes``: by phase, what its times rest on.
    """

    start: float
    end: float
    spans: tuple[Span, ...]
    edges: tuple[float, ...]
    places: Mapping[str, Sequence[int]]
    seconds: Mapping[str, float]
    unknown: frozenset[str]
    notes: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Phase:
    """``seconds`` and ``joules`` with bounds of one phase, None where unknown; 0 only where it surely had no time of its own.

    Notes: ``not_reported`` (no call reports it: its time is part of the other phases), ``partial`` (some calls do not),
    ``by_ttft`` (cut at the first token seen by the client, prefill holds queue and network time), ``short`` (the counter is
    too coarse for its stretches, or its bounds lie more than 20 % of its joules apart), ``gap`` (a stretch is cut inside a
    hole of the samples), ``no_samples``, ``uncovered_start``, ``uncovered_end``, ``reset``.
    """

    seconds: float | None
    joules: float | None
    notes: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None


_NOT_REPORTED = Phase(None, None, ("not_reported",))
_NO_TIME = Phase(0.0, 0.0, low=0.0, high=0.0)


@dataclass(frozen=True, slots=True)
class PhaseEnergy:
    """One window split. The known phases add up to ``whole.joules``, unless the trace leaves one of them out.

    ``idle_joules``: idle power over the window, the floor under all phases; ``active_joules``: the whole less that floor.
    Both None where idle power or the whole is not known; ``idle_reason``: ``unknown``, ``no_whole`` or ``below_idle`` (the
    window took less than the floor, so the idle power does not fit; then only ``active_joules`` is None). ``spans``: joules of
    each span of the timeline, as the curve has them.
    """

    whole: WindowEnergy
    phases: Mapping[str, Phase]
    idle_joules: float | None
    active_joules: float | None
    idle_reason: str | None
    spans: tuple[float, ...] = ()


def timeline(start: float, end: float, calls: Sequence[LlmCall], tools: Iterable[Interval] = ()) -> Timeline:
    """Cut the window [start, end]. Calls and tools may overlap and are clipped to it. ValueError for one that ends early."""
    if end < start:
        raise ValueError(f"the window ends at {end}, before its start {start}")
    work = [piece for call in calls for piece in pieces(call)]
    going = [(piece.phase, piece.start, piece.end) for piece in work]
    going += [("tool_wait", *tool) for tool in tools]
    notes: dict[str, tuple[str, ...]] = {}
    unknown = set()
    for phase in PARTS:
        reporting = sum(phase in reported_parts(call) for call in calls)
        if calls and not reporting:
            unknown.add(phase)
        partial = ("partial",) if 0 < reporting < len(calls) else ()
        by_ttft = ("by_ttft",) if any(piece.by_ttft for piece in work if piece.phase == phase) else ()
        notes[phase] = (*partial, *by_ttft)
    spans = tuple(_sweep(start, end, going))
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, span in enumerate(spans):
        places[span.phase].append(place)
    seconds = {phase: fsum([spans[i].end - spans[i].start for i in some]) for phase, some in places.items()}
    edges = (*(span.start for span in spans), end) if spans else ()
    return Timeline(start, end, spans, edges, dict(places), seconds, frozenset(unknown), notes)


def phase_energy(
    source: EnergySource, line: Timeline, idle_watts: float | None = None, *, method: str = "counter"
) -> PhaseEnergy:
    """The energy of one GPU over the window, by phase. ``idle_watts``: its power with the model loaded and no work."""
    curve = energy_curve(source, line.start, line.end)
    whole = window_energies(curve, [(line.start, line.end)], method=method)
    return phase_energies(curve, [line], whole, idle_watts)[0]


def phase_energies(
    curve: EnergyCurve, lines: Sequence[Timeline], windows: Sequence[WindowEnergy], idle_watts: float | None = None
) -> list[PhaseEnergy]:
    """``phase_energy`` of many windows of one GPU. ``windows``: the energies of the windows of the ``lines``."""
    has_bounds = all(whole.low is not None for whole in windows if whole.joules is not None)
    edges = _Edges(curve, [edge for line in lines for edge in line.edges], has_bounds=has_bounds)
    found, place = [], 0
    for line, whole in zip(lines, windows, strict=True):
        here = range(place, place + len(line.edges))
        place += len(line.edges)
        phases = {phase: _phase(edges, line, phase, here, whole) for phase in PHASES}
        energies = edges.joules[here.start : here.stop]
        spans = tuple(after - before for before, after in pairwise(energies))
        found.append(PhaseEnergy(whole, phases, *idle_split(whole.joules, line.end - line.start, idle_watts), spans))
    return found


class _Edges:
    """What the curve says at the edges of all spans. ``steps``: usual seconds between two changes; 0 where none is known."""

    def __init__(self, curve: EnergyCurve, times: Sequence[float], *, has_bounds: bool) -> None:
        self.curve = curve
        self.joules: list[float] = curve.joules_at(times).tolist()
        # Of the step from each edge to the next; one from the end of a line to the start of the next is never read.
        starts, ends = np.array(times[:-1], np.float64), np.array(times[1:], np.float64)
        low, high = curve.bounds(starts, ends) if has_bounds and curve.is_known else (np.full(len(starts), np.nan),) * 2
        self.low: list[float] = low.tolist()
        self.high: list[float] = high.tolist()
        if curve.is_known:
            steps = curve.step_at(times)
            self.steps: list[float] = curve.usual_steps(steps).tolist()
            self.gaps: list[bool] = curve.is_gap(steps).tolist()
        else:
            self.steps, self.gaps = [0.0] * len(times), [False] * len(times)


def total_phases(parts: Sequence[PhaseEnergy], whole: WindowEnergy) -> PhaseEnergy:
    """The GPUs of one window together; ``whole`` is their ``window.total``. A sum is None where one of them is unknown.

    All parts must come from one timeline.
    """
    found = {}
    for phase in PHASES if parts else ():
        some = [part.phases[phase] for part in parts]
        if some[0] in (_NO_TIME, _NOT_REPORTED) and all(one is some[0] for one in some):
            found[phase] = some[0]
            continue
        notes = tuple(dict.fromkeys(note for one in some for note in one.notes))
        low, high = _sum(one.low for one in some), _sum(one.high for one in some)
        found[phase] = Phase(some[0].seconds, _sum(one.joules for one in some), notes, low, high)
    idle, active = _sum(part.idle_joules for part in parts), _sum(part.active_joules for part in parts)
    reason = next((part.idle_reason for part in parts if part.idle_reason), None if parts else "no_whole")
    spans = tuple(map(fsum, zip(*(part.spans for part in parts), strict=True)))
    return PhaseEnergy(whole, found, idle if parts else None, active if parts else None, reason, spans)


def _sweep(start: float, end: float, going: Iterable[tuple[str, float, float]]) -> Iterator[Span]:
    rank = {phase: place for place, phase in enumerate(PHASES)}
    marks = [(end, rank["other"], 0)]
    for phase, begin, stop in going:
        a, b = max(begin, start), min(stop, end)
        if a < b:
            marks += [(a, rank[phase], 1), (b, rank[phase], -1)]
    marks.sort()
    running = [0] * len(PHASES)
    running[rank["other"]] = 1
    phase, since, at = "", start, start
    for time, place, change in marks:
        if time > at:
            current = next(name for name, count in zip(PHASES, running, strict=True) if count)
            if current != phase:
                if at > since:
                    yield Span(phase, since, at)
                phase, since = current, at
            at = time
        running[place] += change
    if at > since:
        yield Span(phase, since, at)


def _phase(edges: _Edges, line: Timeline, phase: str, here: range, whole: WindowEnergy) -> Phase:
    """``here``: where the edges of the line stand among all ``edges``."""
    if phase in line.unknown:
        return _NOT_REPORTED
    notes = line.notes.get(phase, ())
    if phase not in line.places:
        return Phase(0.0, 0.0, notes) if notes else _NO_TIME
    places, seconds, found = line.places[phase], line.seconds[phase], [*notes]
    curve = edges.curve
    if not curve.is_plain(line.start, line.end):
        spans = [line.spans[place] for place in places]
        found += [reason for span in spans for reason in curve.reasons(span.start, span.end)]
        if not _is_covered(curve, spans):
            return Phase(seconds, None, tuple(dict.fromkeys(found)))
    if _may_have_gaps(edges, here, whole) and any(edges.gaps[here[place]] or edges.gaps[here[place + 1]] for place in places):
        found.append("gap")
    joules = fsum([edges.joules[here[place + 1]] - edges.joules[here[place]] for place in places])
    low, high = (_sum_if_known([side[here[place]] for place in places]) for side in (edges.low, edges.high))
    if is_short(joules, low, high) or seconds < SHORT_STEPS * edges.steps[here[places[0]]] * len(places):
        found.append("short")
    return Phase(seconds, joules, tuple(dict.fromkeys(found)), low, high)


def is_short(joules: float, low: float | None, high: float | None) -> bool:
    """Whether the bounds of a phase lie further apart than ``SHORT_WIDTH`` of its joules."""
    return low is not None and high is not None and high - low > SHORT_WIDTH * joules


def _sum_if_known(joules: Sequence[float]) -> float | None:
    """None where one of them is NaN."""
    known = fsum(joules)
    return None if isnan(known) else known


def _may_have_gaps(edges: _Edges, here: range, whole: WindowEnergy) -> bool:
    usual = min(edges.steps[here[0]], edges.steps[here[-1]])
    return whole.longest_gap is None or whole.longest_gap > GAP_FACTOR * usual


def _is_covered(curve: EnergyCurve, spans: Sequence[Span]) -> bool:
    """Whether the counter reaches over all spans of a phase, but for what ``window_energies`` overlooks too."""
    starts, ends = [span.start for span in spans], [span.end for span in spans]
    seconds = fsum(end - start for start, end in zip(starts, ends, strict=True))
    if fsum(curve.covered(starts, ends).tolist()) < COVERAGE_NEEDED * seconds:
        return False
    return curve.is_known and all(stretch <= LOST_STEPS for stretch in curve.longest_lost(starts, ends).tolist())


def idle_split(
    whole: float | None, seconds: float | None, idle_watts: float | None
) -> tuple[float | None, float | None, str | None]:
    """(idle joules, active joules, why one is None) of a window that took ``whole`` joules; see ``PhaseEnergy``."""
    if idle_watts is None:
        return None, None, "unknown"
    if whole is None or seconds is None:
        return None, None, "no_whole"
    idle = idle_watts * seconds
    return (idle, None, "below_idle") if whole < idle else (idle, whole - idle, None)


def _sum(values: Iterable[float | None]) -> float | None:
    some = list(values)
    known = [value for value in some if value is not None]
    return fsum(known) if len(known) == len(some) else None
