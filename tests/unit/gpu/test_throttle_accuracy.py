"""How far off the throttled seconds of windows are that begin and end anywhere, over spells of all lengths."""

from __future__ import annotations

import random
from statistics import quantiles

import pytest

from tests.fakes.nvml import FakeGpu
from tests.fakes.nvml.script import HW_THERMAL
from tests.unit.gpu.rig import Play

WINDOWS = 400
LASTED = 60.0

Spans = list[tuple[float, float]]


def spells(dice: random.Random) -> Spans:
    """From 2 ms to 4 s, with pauses as long."""
    found, at = [], 1.0
    while at < LASTED - 5.0:
        since = at + 0.002 * 2000 ** dice.random()
        at = since + 0.002 * 2000 ** dice.random()
        found.append((since, at))
    return found


@pytest.mark.parametrize(("driver", "typical", "worst"), [("580.95.05", 0.025, 0.06), ("470.42.01", 0.06, 0.12)])
def test_windows_are_near_the_truth_wherever_they_begin_and_end(play: Play, driver: str, typical: float, worst: float) -> None:
    dice = random.Random(11)
    held = spells(dice)
    edges = [(0.0, 0.0)] + [point for since, until in held for point in ((since, float(HW_THERMAL)), (until, 0.0))]
    rig = play(FakeGpu(power=((0.0, 200.0),), reasons=edges, phase=0.037), driver=driver)
    rig.run(LASTED)
    errors = []
    for _ in range(WINDOWS):
        start = dice.uniform(0.5, 50.0)
        end = start + 0.15 * 60 ** dice.random()
        truth = sum(max(min(until, end) - max(since, start), 0.0) for since, until in held)
        origin = rig.script.origin_unix
        found = rig.monitor.throttled(origin + start, origin + end)[0][1]["hw_thermal"]
        assert found is not None
        errors.append(abs(found - truth))
    p95 = quantiles(errors, n=20)[-1]
    print(f"driver {driver}: p95 {1000 * p95:.1f} ms, worst {1000 * max(errors):.1f} ms of {WINDOWS} windows")  # noqa: T201
    assert p95 <= typical
    assert max(errors) <= worst
