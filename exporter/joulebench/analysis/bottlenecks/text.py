"""Bottlenecks as text. A line says only what is known; a simulated GPU is named first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from joulebench.analysis.bottlenecks.balance import Balance, BytesMoved
from joulebench.analysis.bottlenecks.bottlenecks import Bottlenecks
from joulebench.analysis.bottlenecks.kv_cache import KvCache
from joulebench.analysis.bottlenecks.tasks import Finding
from joulebench.analysis.bottlenecks.throttling import Throttling
from joulebench.analysis.statistics import Estimate


def bottlenecks_text(bottlenecks: Bottlenecks) -> Iterator[str]:
    yield from _heading(bottlenecks.model, simulated=bottlenecks.simulated)
    waiting = bottlenecks.waiting
    if waiting is None:
        yield "  no task has records of its calls, so where the time went is not known"
    else:
        yield f"  {waiting.tasks} tasks, {waiting.total:.1f} s; the GPU had no work for {100 * waiting.idle_share:.0f} % of them"
        yield "  " + ", ".join(f"{kind} {100 * waiting.share(kind):.1f} %" for kind in waiting.seconds)
        for task in sorted(bottlenecks.tasks, key=lambda each: each.idle_share, reverse=True)[:10]:
            shares = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in task.shares.items())
            util = "" if task.util_percent is None else f"; utilization {task.util_percent:.0f} %"
            cpu = "" if task.cpu_seconds is None else f"; layers on the CPU {task.cpu_seconds:.1f} s"
            yield f"    {task.task}: waited {100 * task.idle_share:.0f} % ({shares}{util}{cpu})"
    for gpu in bottlenecks.memory:
        yield f"  GPU {gpu.gpu} {gpu.card}: {gpu.peak_gib:.1f} of {gpu.total_gib:.0f} GiB in use at most"
    yield from (f"  skipped: {each}" for each in bottlenecks.skipped)
    yield from _findings(bottlenecks.findings)


def throttling_text(throttling: Throttling) -> Iterator[str]:
    yield from _heading(throttling.model, simulated=throttling.simulated)
    inside, outside = throttling.calls_inside, throttling.calls_outside
    yield f"  {inside} calls inside throttled spans, {outside} outside, of {throttling.tasks} tasks"
    for where, rate in (("inside", throttling.rate_inside), ("outside", throttling.rate_outside)):
        if rate is not None:
            yield f"  decode {where}: {rate:.1f} tokens/s"
    if throttling.refused:
        yield f"  no comparison: {throttling.refused}"
    else:
        yield f"  rate inside / outside: {_estimate(throttling.slowdown, 3)}"
        yield f"  lost: {_estimate(throttling.seconds_lost, 1)} s, {_estimate(throttling.tokens_lost, 0)} tokens"
    if throttling.onset_c is not None:
        yield f"  temperature at onset: {throttling.onset_c:.0f} C"
    if throttling.suspect:
        shown = ", ".join(throttling.suspect[:10]) + (", ..." if len(throttling.suspect) > 10 else "")
        yield f"  excluded from comparisons: {len(throttling.suspect)} tasks ({shown})"
    yield from _findings(throttling.findings)


def balance_text(balance: Balance) -> Iterator[str]:
    yield from _heading(balance.model, simulated=balance.simulated)
    for card in balance.cards:
        values = [
            (card.util, "{:.0f} % busy"),
            (card.watts, "{:.0f} W"),
            (card.peak_vram_mib, "{:.0f} MiB at most"),
            (card.joules, "{:.1f} J"),
        ]
        yield f"  GPU {card.gpu} {card.name}: " + ", ".join(shape.format(value) for value, shape in values if value is not None)
        if card.links:
            yield "    moved " + ", ".join(f"{name} {_bytes(moved)}" for name, moved in card.links.items())
    if balance.imbalance is None:
        yield "  imbalance: not known; it takes two GPUs or more, each with its utilization"
    else:
        yield f"  imbalance: the busiest card works {100 * balance.imbalance:.0f} % more than the mean"
    yield from _findings(balance.findings)


def kv_cache_text(kv_cache: KvCache) -> Iterator[str]:
    yield from _heading(kv_cache.model, simulated=kv_cache.simulated)
    for turn in kv_cache.turns:
        size = "" if turn.bytes is None else f", {turn.bytes / 2**20:.1f} MiB"
        if turn.bytes_low is not None and turn.bytes_high is not None:
            size += f" ({turn.bytes_low / 2**20:.1f} to {turn.bytes_high / 2**20:.1f})"
        if turn.ratio is not None:
            grown = "" if turn.ratio_growth is None else f", {100 * turn.ratio_growth:+.1f}"
            size += f", {100 * turn.ratio:.1f} % of the server's cache{grown} (seen in {turn.seen})"
        yield f"  turn {turn.turn}: {turn.tokens:.0f} tokens in context ({turn.growth:+.0f}){size}, mean of {turn.tasks} tasks"
    if not kv_cache.turns:
        yield "  no call has its tokens"
    if kv_cache.slope is not None:
        slope = kv_cache.slope
        yield (
            f"  VRAM for one more token: {slope.value / 1024:.1f} KiB (95 %: {slope.low / 1024:.1f} to {slope.high / 1024:.1f}),"
            f" over {slope.points} tasks"
        )
        if slope.low <= 0:
            yield "  which may be nothing: the server allocates its cache at the start, or it is too small to see"
    yield from _findings(kv_cache.findings)


def _bytes(moved: BytesMoved) -> str:
    high = "?" if moved.high is None else f"{moved.high / 1e6:.1f}"
    return f"{moved.value / 1e6:.1f} MB ({moved.low / 1e6:.1f} to {high})"


def _heading(model: str, *, simulated: bool) -> Iterator[str]:
    yield model
    if simulated:
        yield "  THE GPU WAS SIMULATED: what follows about it is no measurement"


def _findings(values: Sequence[Finding]) -> Iterator[str]:
    if not values:
        yield "  nothing stands out"
    for finding in values:
        yield ""
        yield from (f"  {line}" for line in finding.lines())
    yield ""


def _estimate(estimate: Estimate, digits: int) -> str:
    if estimate.value is None:
        return "not known"
    interval = estimate.interval
    if interval is None:
        return f"{estimate.value:.{digits}f} (interval not known: too few tasks)"
    low, high = ("?" if each is None else f"{each:.{digits}f}" for each in (interval.low, interval.high))
    return f"{estimate.value:.{digits}f} (95 %: {low} to {high})"
