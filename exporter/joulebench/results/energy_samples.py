"""Counter values and the time that belongs to each, as one scrape stored them, become the trace of a GPU."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import sub
from statistics import median

import numpy as np

from joulebench.clients.matrix import Column
from joulebench.energy.trace import CounterTrace

ROUNDED_STORE_SECONDS = 0.005
HOLE_STEPS = 3.0

Row = tuple[float, float, float, float]
"""(time of the scrape, time of the counter change, joules, uncertainty)"""


@dataclass(frozen=True, slots=True)
class Changes:
    """What one job stored of one counter: when it was scraped, when it had changed, to what, and how sure that time is."""

    scraped: array[float]
    at: array[float]
    joules: array[float]
    slack: array[float]

    def rows(self) -> Iterator[Row]:
        return zip(self.scraped, self.at, self.joules, self.slack, strict=True)


def changes(counters: Sequence[Column], times: Sequence[Column], slacks: Sequence[Column]) -> list[tuple[Column, Changes]]:
    """The counters with their changes. A counter value counts only with the time that belongs to it, of the same scrape."""
    time_of = {_identity(one): one for one in times}
    slack_of = {_identity(one): one for one in slacks}
    found = []
    for counter in counters:
        at = time_of.get(_identity(counter))
        if at is not None:
            found.append((counter, _matched(counter, at, slack_of.get(_identity(counter)))))
    return found


def add(trace: CounterTrace, jobs: Sequence[Changes]) -> None:
    """Appends the changes of one counter, as one or several jobs scraped it."""
    extra = ROUNDED_STORE_SECONDS if all(_rounded(one.at) for one in jobs) else 0.0
    if len(jobs) == 1:
        slack = array("d", (one + extra for one in jobs[0].slack)) if extra else jobs[0].slack
        trace.extend(jobs[0].at, jobs[0].joules, slack)
        return
    # In the order of scrapes, not of sample times: after a reset or a clock step these two differ. What is not later than the
    # last change is the same change seen again, and the trace leaves it out.
    for _, moment, joules, slack_seconds in sorted(row for one in jobs for row in one.rows()):
        trace.append(moment, joules, slack_seconds + extra)


def has_hole(times: Sequence[Column], start: float, end: float) -> bool:
    """Whether a series was not scraped for much longer than usual, at the edges of the chunk too."""
    looked_at = set()
    for one in times:
        if id(one.at) in looked_at:
            continue
        looked_at.add(id(one.at))
        steps = list(map(sub, one.at[1:], one.at))
        longest = max((one.at[0] - start, end - one.at[-1], *steps))
        if not steps or longest > HOLE_STEPS * median(steps):
            return True
    return False


def _matched(counter: Column, time: Column, slack: Column | None) -> Changes:
    if _same(counter, time) and (slack is None or _same(counter, slack)):
        return Changes(counter.at, time.value, counter.value, slack.value if slack else array("d", bytes(8 * len(counter.at))))
    times = dict(zip(time.at, time.value, strict=True))
    slacks = dict(zip(slack.at, slack.value, strict=True)) if slack else {}
    rows = [(t, times[t], joules, slacks.get(t, 0.0)) for t, joules in zip(counter.at, counter.value, strict=True) if t in times]
    return Changes(*(array("d", column) for column in zip(*rows, strict=True))) if rows else Changes(*(array("d"),) * 4)


def _same(one: Column, other: Column) -> bool:
    return one.at is other.at


def _identity(series: Column) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in series.labels.items() if name != "__name__")


def _rounded(times: array[float]) -> bool:
    """Whether the store keeps 12 digits of a value, so that a unix time is true to 5 ms only."""
    hundredths = np.frombuffer(times) * 100 if times else np.empty(0)
    return bool((np.abs(hundredths - np.rint(hundredths)) < 1e-4).all())


def by_uuid(found: Sequence[tuple[Column, Changes]]) -> dict[str, list[Changes]]:
    grouped: defaultdict[str, list[Changes]] = defaultdict(list)
    for counter, one in found:
        grouped[counter.labels.get("uuid", "")].append(one)
    return dict(grouped)
