"""Shares of window energy add up to the GPU's own, on known power; an exporter that does not answer costs nobody anything."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
import requests

from joulebench import metrics as m
from joulebench.clients.exporter import EnergyAnswer, GpuWindow
from joulebench.clock import SystemClock
from joulebench.errors import EnergyApiError
from joulebench.metrics.families import Sheet
from joulebench.proxy.energy import EnergyAllocator, RequestEnergy
from joulebench.proxy.metrics import ProxyMetrics, TaskKey
from joulebench.units import Joules, Seconds
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import say
from tests.fakes.raw_upstream import Part, RawRequest, RawUpstream, chunked, whole
from tests.unit.proxy.conftest import StartProxy
from tests.unit.proxy.seen import wait_for

WATTS = {"0": 100.0, "1": 40.0}


class SteadyPower:
    """Two GPUs of known power. ``asked`` are the windows."""

    def __init__(self, *, failure: Exception | None = None, unknown: bool = False) -> None:
        self.asked: list[tuple[float, float]] = []
        self._failure = failure
        self._unknown = unknown

    def energy(self, start: Seconds, end: Seconds, wait: float = 0.0) -> EnergyAnswer:
        self.asked.append((start, end))
        if self._failure is not None:
            raise self._failure
        gpus = tuple(
            GpuWindow(gpu, f"GPU-{gpu}", None if self._unknown else Joules(watts * (end - start)), None, None, "ok")
            for gpu, watts in WATTS.items()
        )
        return EnergyAnswer("nvml", gpus, [], {})


class Hands:
    """A clock whose wall time a test sets; the past, so that every answer is due at once."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._real = SystemClock()

    def unix(self) -> Seconds:
        return Seconds(self.now)

    def monotonic(self) -> Seconds:
        return self._real.monotonic()


def joules(metrics: ProxyMetrics, metric: m.Metric) -> dict[tuple[str, str], float]:
    sheet = Sheet()
    metrics.collect(sheet)
    samples = [sample for family in sheet.families() for sample in family.samples if sample.name == metric.name]
    return {(sample.labels["task_id"], sample.labels["gpu"]): sample.value for sample in samples}


def play(allocator: EnergyAllocator, hands: Hands, metrics: ProxyMetrics, events: Sequence[tuple[float, str]]) -> None:
    """``events``: seconds and ``+task`` or ``-task``."""
    running: dict[TaskKey, list[RequestEnergy]] = {}
    for at, event in events:
        hands.now = 1000.0 + at
        key = metrics.key("r", event[1:], "m")
        if event[0] == "+":
            running.setdefault(key, []).append(allocator.begin(key, may_be_remote=False))
        else:
            allocator.end(running[key].pop())
    hands.now += 60.0


OVERLAP = [(0.0, "+a"), (1.0, "+b"), (3.0, "+a"), (4.0, "-a"), (5.0, "-b"), (6.0, "-a"), (9.0, "+b"), (10.0, "-b")]


def test_shares_of_overlapping_requests_add_up() -> None:
    metrics, hands, power = ProxyMetrics(), Hands(), SteadyPower()
    allocator = EnergyAllocator(power, metrics, hands)
    play(allocator, hands, metrics, OVERLAP)
    allocator.start()
    wait_for(lambda: len(power.asked) == 6)
    allocator.stop()
    assert [(start - 1000, end - 1000) for start, end in power.asked] == [(0, 1), (1, 3), (3, 4), (4, 5), (5, 6), (9, 10)]
    share, whole = joules(metrics, m.PROXY_ENERGY), joules(metrics, m.PROXY_ENERGY_WHOLE)
    # a: 1 + 2/2 + 2/3 + 1/2 + 1, b: 2/2 + 1/3 + 1/2 + 1 seconds of the GPU.
    assert share["a", "0"] == pytest.approx(100 * (25 / 6))
    assert share["b", "0"] == pytest.approx(100 * (17 / 6))
    for gpu, watts in WATTS.items():
        assert share["a", gpu] + share["b", gpu] == pytest.approx(7 * watts)
        assert whole["a", gpu] == pytest.approx(6 * watts)
        assert whole["b", gpu] == pytest.approx(5 * watts)


@pytest.mark.parametrize(
    "power",
    [SteadyPower(failure=EnergyApiError("gone")), SteadyPower(failure=TypeError("odd")), SteadyPower(unknown=True)],
    ids=["exporter gone", "unforeseen error", "no energy"],
)
def test_energy_that_is_not_known_is_no_energy(power: SteadyPower) -> None:
    metrics, hands = ProxyMetrics(), Hands()
    allocator = EnergyAllocator(power, metrics, hands)
    play(allocator, hands, metrics, OVERLAP)
    allocator.start()

    def unknown() -> float:
        sheet = Sheet()
        metrics.collect(sheet)
        return sum(f.samples[0].value for f in sheet.families() if f.samples[0].name == m.PROXY_ENERGY_UNKNOWN.name)

    wait_for(lambda: unknown() > 0.9)
    allocator.stop()
    assert joules(metrics, m.PROXY_ENERGY) == {}
    assert joules(metrics, m.PROXY_ENERGY_WHOLE) == {}


def test_a_wall_clock_that_is_set_back_makes_no_stretch() -> None:
    metrics, hands, power = ProxyMetrics(), Hands(), SteadyPower()
    allocator = EnergyAllocator(power, metrics, hands)
    play(allocator, hands, metrics, [(5.0, "+a"), (1.0, "-a"), (2.0, "+a"), (3.0, "-a")])
    allocator.start()
    wait_for(lambda: bool(power.asked))
    allocator.stop()
    assert power.asked == [(1002.0, 1003.0)]


def test_energy_of_real_requests_covers_the_time_in_which_any_ran(start_proxy: StartProxy) -> None:
    power = SteadyPower()
    with ModelServer([say("one two three").with_(token_gap=0.05)] * 6) as server:
        proxy = start_proxy(server.ollama_url, energy_api=power)

        def ask(task: int) -> None:
            requests.post(f"{proxy.url}/run/r/task/{task}/api/chat", json={"model": "m", "stream": True}, timeout=5)

        threads = [threading.Thread(target=ask, args=(task,)) for task in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        proxy.wait_until_over(6)

        def busy() -> float:
            return sum(end - start for start, end in power.asked)

        def all_counted() -> bool:
            """Whether both GPUs have the joules of every window that was asked for; the last may come after the requests."""
            joules = [proxy.value(m.PROXY_ENERGY, gpu=gpu) or 0.0 for gpu in ("0", "1")]
            return busy() > 0.1 and joules == [pytest.approx(100 * busy()), pytest.approx(40 * busy())]

        wait_for(all_counted)
        assert all(end <= start for (_, end), (start, _) in pairwise(power.asked))
        assert all((proxy.value(m.PROXY_ENERGY, task_id=str(task)) or 0.0) > 0.0 for task in range(6))


def test_a_model_that_another_host_runs_gets_no_energy(start_proxy: StartProxy) -> None:
    """Ollama cloud: every line names the host. The first request is already one."""
    line = {"model": "big:cloud", "remote_model": "big", "remote_host": "https://ollama.com:443"}
    words = [{**line, "message": {"content": "a"}, "done": False}] * 3
    end = {**line, "message": {"content": ""}, "done": True, "prompt_eval_count": 5, "eval_count": 3}

    def answer(request: RawRequest) -> Iterable[Part]:
        if b"big:cloud" in request.body:
            lines = [json.dumps(value).encode() + b"\n" for value in (*words, end)]
            return chunked([part for one in lines for part in (one, 0.05)], "application/x-ndjson")
        return whole(json.dumps({**end, "remote_host": None, "message": {"content": "b"}}).encode())

    power = SteadyPower()
    with RawUpstream(answer) as upstream:
        proxy = start_proxy(upstream.url, energy_api=power)
        for number in range(3):
            url = f"{proxy.url}/run/r/task/{number}/api/chat"
            requests.post(url, json={"model": "big:cloud", "stream": True}, timeout=5)
        requests.post(f"{proxy.url}/run/r/task/here/api/chat", json={"model": "small", "stream": False}, timeout=5)
        proxy.wait_until_over(4)
        wait_for(lambda: (proxy.value(m.PROXY_ENERGY, task_id="here") or 0.0) > 0.0)
    assert proxy.value(m.PROXY_ENERGY, model="big:cloud") is None
    assert proxy.value(m.PROXY_REMOTE_REQUESTS, model="big:cloud") == 3
    assert proxy.value(m.PROXY_COMPLETION_TOKENS, model="big:cloud") == 9
