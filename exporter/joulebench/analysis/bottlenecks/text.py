"""Bottlenecks as text. A line says only what is known; a simulated GPU is named first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from joulebench.analysis.bottlenecks.balance import Balance, BytesMoved
from joulebench.analysis.bottlenecks.bottlenecks import Bottlenecks
from joulebench.analysis.bottlenecks.kv_cache import KvCache
from joulebench.analysis.bottlenecks.tasks import Finding
from joulebench.analysis.bottlenecks.throttling import Throttling
from joulebench.analysis.statistics import Estimate


def bottlenecks_text(found: Bottlenecks) -> Iterator[str]:
    yield from _heading(found.model, simulated=found.simulated)
    waiting = found.waiting
    if waiting is None:
        yield "  no task has records of its calls, so where the time went is not known"
    else:
        yield f"  {waiting.tasks} tasks, {waiting.total:.1f} s; the GPU had no work for {100 * waiting.idle_share:.0f} % of them"
        yield "  " + ", ".join(f"{kind} {100 * waiting.share(kind):.1f} %" for kind in waiting.seconds)
        for task in sorted(found.tasks, key=lambda one: one.idle_share, reverse=True)[:10]:
            shares = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in task.shares.items())
            util = "" if task.util_percent is None else f"; utilization {task.util_percent:.0f} %"
            cpu = "" if task.cpu_seconds is None else f"; layers on the CPU {task.cpu_seconds:.1f} s"
            yield f"    {task.task}: waited {100 * task.idle_share:.0f} % ({shares}{util}{cpu})"
    for gpu in found.memory:
        yield f"  GPU {gpu.gpu} {gpu.card}: {gpu.peak_gib:.1f} of {gpu.total_gib:.0f} GiB in use at most"
    yield from _findings(found.findings)


def throttling_text(found: Throttling) -> Iterator[str]:
    yield from _heading(found.model, simulated=found.simulated)
    yield f"  {found.calls_inside} calls inside throttled spans, {found.calls_outside} outside, of {found.tasks} tasks"
    for where, rate in (("inside", found.rate_inside), ("outside", found.rate_outside)):
        if rate is not None:
            yield f"  decode {where}: {rate:.1f} tokens/s"
    if found.refused:
        yield f"  no comparison: {found.refused}"
    else:
        yield f"  rate inside / outside: {_estimate(found.slowdown, 3)}"
        yield f"  lost: {_estimate(found.seconds_lost, 1)} s, {_estimate(found.tokens_lost, 0)} tokens"
    if found.onset_c is not None:
        yield f"  temperature at onset: {found.onset_c:.0f} C"
    if found.suspect:
        shown = ", ".join(found.suspect[:10])
        yield f"  excluded from comparisons: {len(found.suspect)} tasks ({shown}{', ...' if len(found.suspect) > 10 else ''})"
    yield from _findings(found.findings)


def balance_text(found: Balance) -> Iterator[str]:
    yield from _heading(found.model, simulated=found.simulated)
    for card in found.cards:
        told = [
            (card.util, "{:.0f} % busy"),
            (card.watts, "{:.0f} W"),
            (card.peak_vram_mib, "{:.0f} MiB at most"),
            (card.joules, "{:.1f} J"),
        ]
        yield f"  GPU {card.gpu} {card.name}: " + ", ".join(shape.format(value) for value, shape in told if value is not None)
        if card.links:
            yield "    moved " + ", ".join(f"{name} {_bytes(moved)}" for name, moved in card.links.items())
    if found.imbalance is None:
        yield "  imbalance: not known; it takes two GPUs or more, each with its utilization"
    else:
        yield f"  imbalance: the busiest card works {100 * found.imbalance:.0f} % more than the mean"
    yield from _findings(found.findings)


def kv_cache_text(found: KvCache) -> Iterator[str]:
    yield from _heading(found.model, simulated=found.simulated)
    for turn in found.turns:
        size = "" if turn.bytes is None else f", {turn.bytes / 2**20:.1f} MiB"
        if turn.bytes_low is not None and turn.bytes_high is not None:
            size += f" ({turn.bytes_low / 2**20:.1f} to {turn.bytes_high / 2**20:.1f})"
        if turn.ratio is not None:
            grown = "" if turn.ratio_growth is None else f", {100 * turn.ratio_growth:+.1f}"
            size += f", {100 * turn.ratio:.1f} % of the server's cache{grown} (seen in {turn.seen})"
        yield f"  turn {turn.turn}: {turn.tokens:.0f} tokens in context ({turn.growth:+.0f}){size}, mean of {turn.tasks} tasks"
    if not found.turns:
        yield "  no call has its tokens"
    if found.slope is not None:
        slope = found.slope
        yield (
            f"  VRAM for one more token: {slope.value / 1024:.1f} KiB (95 %: {slope.low / 1024:.1f} to {slope.high / 1024:.1f}),"
            f" over {slope.points} tasks"
        )
        if slope.low <= 0:
            yield "  which may be nothing: the server allocates its cache at the start, or it is too small to see"
    yield from _findings(found.findings)


def _bytes(moved: BytesMoved) -> str:
    high = "?" if moved.high is None else f"{moved.high / 1e6:.1f}"
    return f"{moved.value / 1e6:.1f} MB ({moved.low / 1e6:.1f} to {high})"


def _heading(model: str, *, simulated: bool) -> Iterator[str]:
    yield model
    if simulated:
        yield "  THE GPU WAS SIMULATED: what follows about it is no measurement"


def _findings(found: Sequence[Finding]) -> Iterator[str]:
    if not found:
        yield "  nothing stands out"
    for finding in found:
        yield ""
        yield from (f"  {line}" for line in finding.lines())
    yield ""


def _estimate(found: Estimate, digits: int) -> str:
    if found.value is None:
        return "not known"
    interval = found.interval
    if interval is None:
        return f"{found.value:.{digits}f} (interval not known: too few tasks)"
    low, high = ("?" if one is None else f"{one:.{digits}f}" for one in (interval.low, interval.high))
    return f"{found.value:.{digits}f} (95 %: {low} to {high})"
