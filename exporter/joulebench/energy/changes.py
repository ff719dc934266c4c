"""The cumulative energy at times at which power may change, as where tasks, calls and tools begin and end.

A counter is blind between two of its steps. Where several of these times lie in one step or in neighbouring steps, their energies
are estimated together: the stretches between all changes of the counter and all of these times each have a mean power, and
the energies are those with which power differs least from stretch to stretch, while a difference across one of the times hardly
counts. The energy at every change of the counter stays what it is.
"""

from __future__ import annotations

import numpy as np

from joulebench.energy.curve import EnergyCurve, Flags, Floats, Indices

JUMP_WEIGHT = 1e-3
"""Of the square of a difference of power across a time at which it may change, against one across a change of the counter."""
NEIGHBOURS = 2
"""Steps around a time by whose power its energy is estimated; times that are further apart are independent."""
SHORTEST_STRETCH, SHORTEST_PAUSE = 1e-3, 1e-4
"""Seconds. A time that is closer to a change of the counter, or to the time before it, is not estimated together with others."""
MOST_TOGETHER, OVERLAP = 48, 8
"""Times that are estimated in one go, and of those around them that go in, too."""


def joules_at_changes(curve: EnergyCurve, times: Floats) -> Floats:
    """E(t) at rising times; that of ``EnergyCurve.joules_at`` where a time is alone or the counter around it has holes."""
    found = curve.joules_at(times)
    steps = np.searchsorted(curve.at, times, "right") - 1
    places = np.flatnonzero(_can_be_estimated(curve, times, steps))
    for group in np.split(places, np.flatnonzero(np.diff(steps[places]) > NEIGHBOURS) + 1):
        for begin in range(0, len(group) if len(group) > 1 else 0, MOST_TOGETHER):
            first = max(begin - OVERLAP, 0)
            some = group[first : begin + MOST_TOGETHER + OVERLAP]
            points = slice(steps[some[0]] - NEIGHBOURS, steps[some[-1]] + NEIGHBOURS + 2)
            energies = _estimate(curve.at[points], curve.joules[points], times[some])
            own = slice(begin - first, begin - first + MOST_TOGETHER)
            found[some[own]] = energies[own]
    rising: Floats = np.maximum.accumulate(found)
    return rising


def _can_be_estimated(curve: EnergyCurve, times: Floats, steps: Indices) -> Flags:
    """Whether each time lies inside a step with ``NEIGHBOURS`` others on either side, none a gap or between two epochs."""
    count = len(curve.steps)
    possible: Flags = (steps >= NEIGHBOURS) & (steps < count - NEIGHBOURS)
    if not possible.any():
        return possible
    own = steps[possible]
    around = own[:, None] + np.arange(-NEIGHBOURS, NEIGHBOURS + 1)
    is_regular = ~(curve.is_gap(around.ravel()) | np.isnan(curve.power[around.ravel()])).reshape(around.shape).any(axis=1)
    distance = np.minimum(times[possible] - curve.at[own], curve.at[own + 1] - times[possible])
    possible[possible] = is_regular & (distance >= SHORTEST_STRETCH)
    return possible & (np.diff(times, prepend=-np.inf) >= SHORTEST_PAUSE)


def _estimate(at: Floats, joules: Floats, times: Floats) -> Floats:
    """Energies at times between the changes of a counter, least squares of the differences of power."""
    edges = np.sort(np.concatenate((at, times)))
    is_time = np.isin(edges, times)
    energy = np.zeros(len(edges))
    energy[~is_time] = joules
    inverse = 1.0 / np.diff(edges)
    differences = np.zeros((len(edges) - 2, len(edges)))
    row = np.arange(len(differences))
    differences[row, row] = inverse[:-1]
    differences[row, row + 1] = -inverse[:-1] - inverse[1:]
    differences[row, row + 2] = inverse[1:]
    differences *= np.sqrt(np.where(is_time[1:-1], JUMP_WEIGHT, 1.0))[:, None]
    energy[is_time] = np.linalg.lstsq(differences[:, is_time], -differences @ energy, rcond=None)[0]
    return _without_negative_power(edges, energy, is_time)[is_time]


def _without_negative_power(edges: Floats, energy: Floats, is_time: Flags) -> Floats:
    """The energies with no stretch below 0 J; what is left of each step of the counter is scaled to the joules of the step."""
    spent = np.maximum(np.diff(energy), 0.0)
    step = np.cumsum(~is_time)[:-1] - 1
    wanted, seconds = np.diff(energy[~is_time]), np.diff(edges[~is_time])
    given = np.bincount(step, spent)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = spent * (wanted / given)[step]
    spent = np.where(given[step] > 0, scaled, (wanted / seconds)[step] * np.diff(edges))
    found: Floats = energy[0] + np.concatenate(([0.0], np.cumsum(spent)))
    return found
