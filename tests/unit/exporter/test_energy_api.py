"""The window energy API: one fixed shape, null for what is not known, and a 400 that says what is wrong with the question."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest

from joulebench.clock import SystemClock
from joulebench.energy.window import WindowEnergy, missing
from joulebench.exporter.energy_api import Answer, BadWindow, EnergyApi, Window, parse_window
from joulebench.gpu.reading import GpuIdentity
from joulebench.units import Seconds
from tests.unit.exporter.snapshots import FULL, NOW, SPARSE, ManualClock, Windows

RING = 3600.0
KNOWN = WindowEnergy(100.0, 95.0, 106.0, "counter", 30, 0.11, 1.0, 0, "ok", (), end_joules=1500.0)
SHORT = WindowEnergy(40.0, 20.0, 64.0, "counter", 2, 0.11, 1.0, 0, "short", ("short",))
UNKNOWN = missing("none", ("no_samples",))


def api(*answers: tuple[GpuIdentity, WindowEnergy], windows: Windows | None = None) -> EnergyApi:
    return EnergyApi(windows or Windows(answers), lambda: "nvml", ManualClock(), RING)


def run(answer: Coroutine[Any, Any, Answer]) -> Answer:
    return asyncio.run(answer)


def query(start: object = NOW - 10, end: object = NOW - 5, **more: object) -> str:
    return "&".join(f"{key}={value}" for key, value in {"start": start, "end": end, **more}.items())


def test_the_answer_has_the_fixed_shape() -> None:
    slowed = {"sw_power_cap": None, "hw_thermal": Seconds(1.25)}
    windows = Windows([(FULL.identity, KNOWN), (SPARSE.identity, SHORT)], slowed)
    status, body = run(api(windows=windows).answer(query()))
    assert status == 200
    assert body == {
        "start": NOW - 10,
        "end": NOW - 5,
        "basis": "assumed",
        "mig": [],
        "gpus": [
            {
                "gpu": "0",
                "uuid": "GPU-aaaa",
                "parent": None,
                "joules": 100.0,
                "end_joules": 1500.0,
                "low": 95.0,
                "high": 106.0,
                "method": "counter",
                "samples": 30,
                "quality": "ok",
                "reasons": [],
                "longest_gap_seconds": 0.11,
                "share": None,
                "throttled_seconds": {"sw_power_cap": None, "hw_thermal": 1.25},
            },
            {
                "gpu": "1",
                "uuid": "GPU-bbbb",
                "parent": None,
                "joules": 40.0,
                "end_joules": None,
                "low": 20.0,
                "high": 64.0,
                "method": "counter",
                "samples": 2,
                "quality": "short",
                "reasons": ["short"],
                "longest_gap_seconds": 0.11,
                "share": None,
                "throttled_seconds": {"sw_power_cap": None, "hw_thermal": 1.25},
            },
        ],
        "total": {"joules": 140.0, "low": 115.0, "high": 170.0, "quality": "short", "reasons": ["short"]},
        "source": "nvml",
        "clock": {"received": NOW, "answered": NOW},
    }


def test_cuts_divide_the_window_of_each_gpu_whose_parts_are_known() -> None:
    parts = [replace(KNOWN, joules=joules, low=joules - 1, high=None) for joules in (20.0, 30.0, 50.0)]
    windows = Windows([(FULL.identity, KNOWN), (SPARSE.identity, SHORT)], between_cuts={"GPU-aaaa": parts})
    _, body = run(api(windows=windows).answer(query(cuts="1,2.5", changes="0.5,3")))
    assert windows.edges == [([NOW - 10, NOW - 9, NOW - 7.5, NOW - 5], 0.0, [NOW - 9.5, NOW - 7])]
    known, unknown = body["gpus"]
    assert known["parts"] == [[20.0, 19.0, None], [30.0, 29.0, None], [50.0, 49.0, None]]
    assert "parts" not in unknown


def test_many_windows_are_waited_for_once_and_answered_in_their_order() -> None:
    windows = Windows([(FULL.identity, KNOWN)])
    queries = [query(NOW - 10, NOW - 5, wait=0.5), "start=x", query(NOW - 3, NOW - 1)]
    status, body = run(api(windows=windows).answer_many(queries))
    assert status == 200
    assert [(one["status"], one["body"].get("start")) for one in body["answers"]] == [
        (200, NOW - 10),
        (400, None),
        (200, NOW - 3),
    ]
    assert windows.asked == [(NOW - 10, NOW - 5), (NOW - 3, NOW - 1)]


def test_a_gpu_that_is_not_known_makes_the_total_unknown_and_not_smaller() -> None:
    _, body = run(api((FULL.identity, KNOWN), (SPARSE.identity, UNKNOWN)).answer(query()))
    assert body["gpus"][1]["joules"] is None
    assert body["total"] == {"joules": None, "low": None, "high": None, "quality": "missing", "reasons": ["no_samples"]}


def test_an_unknown_bound_leaves_the_estimate() -> None:
    _, body = run(api((FULL.identity, KNOWN), (SPARSE.identity, replace(SHORT, high=None))).answer(query()))
    assert (body["total"]["joules"], body["total"]["low"], body["total"]["high"]) == (140.0, 115.0, None)


def test_without_a_gpu_the_energy_is_unknown_and_not_zero() -> None:
    status, body = run(EnergyApi(None, lambda: "none", ManualClock(), RING).answer(query()))
    assert status == 200
    assert (body["gpus"], body["source"]) == ([], "none")
    assert body["total"] == {"joules": None, "low": None, "high": None, "quality": "missing", "reasons": ["no_gpu"]}


def test_every_answer_is_plain_json() -> None:
    _, body = run(api((FULL.identity, KNOWN), (SPARSE.identity, UNKNOWN)).answer(query()))
    assert json.loads(json.dumps(body, allow_nan=False)) == body


def test_start_and_end_reach_the_monitor_unchanged() -> None:
    windows = Windows()
    assert run(api(windows=windows).answer(query(1789999990.123456, 1790000001.5, wait=1.5)))[0] == 200
    assert windows.asked == [(1789999990.123456, 1790000001.5)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "start is missing"),
        (f"end={NOW}", "start is missing"),
        (f"start={NOW}", "end is missing"),
        (query(start=""), "start='' is not a finite number"),
        (query(start="yesterday"), "start='yesterday' is not a finite number"),
        (query(end="nan"), "end='nan' is not a finite number"),
        (query(start="-inf"), "start='-inf' is not a finite number"),
        (query(wait="soon"), "wait='soon' is not a finite number"),
        (query(wait=-1), "wait=-1 is not between 0 and 2 seconds"),
        (query(clock_uncertainty=6), "clock_uncertainty=6 is not between 0 and 5 seconds"),
        (query(wait=2.5), "wait=2.5 is not between 0 and 2 seconds"),
        (query(NOW - 5, NOW - 5), "is not after start"),
        (query(NOW - 5, NOW - 6), "is not after start"),
        (query(NOW - 5, NOW + 2.5), "2.5 s in the future; at most 2 s"),
        (query((NOW - 5) * 1000, NOW * 1000), "milliseconds"),
        (query(NOW - 3601, NOW), "the window is 3601 s long, the exporter keeps 3600 s"),
        (query(0, NOW), "the exporter keeps 3600 s"),
        (query(gpu=0), "unknown parameter 'gpu'; known are start, end, wait, gpus, server, unit, container, pod, job"),
        (query() + f"&end={NOW}", "end is given more than once"),
        *((query(cuts=cuts), "seconds after the start that rise within the window") for cuts in ("2,1", "x", "5", "-1,2", "nan")),
        (query(cuts=",".join(str(cut / 1000) for cut in range(1, 502))), "are not at most 500 seconds"),
        (query(scope="host", cuts="1"), "leave out"),
    ],
)
def test_a_window_that_cannot_be_is_a_400_that_says_why(text: str, complaint: str) -> None:
    windows = Windows()
    status, body = run(api(windows=windows).answer(text))
    assert status == 400
    assert body.keys() == {"error", "clock"}
    assert complaint in body["error"]
    assert windows.asked == []


@pytest.mark.parametrize("end", [NOW, NOW + 1.99])
def test_a_window_may_end_as_far_ahead_as_can_be_waited_for(end: float) -> None:
    assert parse_window(query(NOW - 1, end, wait=2), NOW, RING) == Window(NOW - 1, end, 2.0)


def test_a_window_as_long_as_the_ring_is_allowed() -> None:
    assert parse_window(query(NOW - RING, NOW), NOW, RING).wait == 0.0


def test_a_complaint_repeats_no_more_than_a_little_of_the_input() -> None:
    with pytest.raises(BadWindow) as error:
        parse_window(query(start="9" * 10_000 + "x"), NOW, RING)
    assert len(str(error.value)) < 120


class Unsettled(Windows):
    """Counters that have not passed the end of any window before ``settle`` is called."""

    def __init__(self) -> None:
        super().__init__()
        self._settled = False

    def settle(self) -> None:
        self._settled = True

    def is_settled(self, end_unix: float) -> bool:
        return self._settled


def test_an_answer_waits_until_the_counters_have_passed_the_end() -> None:
    windows = Unsettled()
    energy = EnergyApi(windows, lambda: "nvml", SystemClock(), RING)
    now = SystemClock().unix()

    async def ask() -> list[int]:
        waiting = [asyncio.create_task(energy.answer(query(now - 10, now - 5, wait=2))) for _ in range(50)]
        await asyncio.sleep(0.05)
        assert windows.asked == []
        windows.settle()
        return [status for status, _ in await asyncio.gather(*waiting)]

    assert asyncio.run(ask()) == [200] * 50


def test_an_answer_waits_no_longer_than_it_was_asked_to() -> None:
    windows = Unsettled()
    clock = SystemClock()
    now, begun = clock.unix(), clock.monotonic()
    status, _ = run(EnergyApi(windows, lambda: "nvml", clock, RING).answer(query(now - 10, now - 5, wait=0.1)))
    assert (status, len(windows.asked)) == (200, 1)
    assert 0.1 <= clock.monotonic() - begun < 2.0


def test_one_request_too_many_is_a_503_and_the_places_come_free_again() -> None:
    windows = Unsettled()
    energy = EnergyApi(windows, lambda: "nvml", SystemClock(), RING, max_pending=2)
    now = SystemClock().unix()
    text = query(now - 10, now - 5, wait=2)

    async def ask() -> tuple[Answer, list[int], int]:
        waiting = [asyncio.create_task(energy.answer(text)) for _ in range(2)]
        await asyncio.sleep(0.05)
        refused = await energy.answer(text)
        windows.settle()
        statuses = [status for status, _ in await asyncio.gather(*waiting)]
        return refused, statuses, (await energy.answer(text))[0]

    (status, body), statuses, later = asyncio.run(ask())
    assert (status, list(body)) == (503, ["error"])
    assert (statuses, later) == ([200, 200], 200)


class Broken(Windows):
    def window(self, start_unix: float, end_unix: float) -> Sequence[tuple[GpuIdentity, WindowEnergy]]:
        raise RuntimeError(f"no window from {start_unix} to {end_unix}")


def test_a_failing_window_gives_its_place_back() -> None:
    energy = EnergyApi(Broken(), lambda: "nvml", ManualClock(), RING, max_pending=1)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            run(energy.answer(query()))


def test_a_gpu_that_cannot_be_named_leaves_the_total_without_an_upper_bound_and_suspect() -> None:
    windows = Windows([(FULL.identity, KNOWN)], has_unnamed_gpus=True)
    _, body = run(api(windows=windows).answer(query()))
    assert body["total"] == {"joules": 100.0, "low": 95.0, "high": None, "quality": "suspect", "reasons": ["gpu_missing"]}
    assert body["gpus"][0]["quality"] == "ok"
