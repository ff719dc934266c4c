"""The scrape shows Ollama as it is now: up or not, with the models it has now, however long an answer takes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from joulebench.clock import SystemClock
from joulebench.errors import OllamaError
from joulebench.exporter.exposition import Exposition
from joulebench.exporter.ollama_collector import OllamaCollector
from joulebench.ollama.inventory import OllamaApi, OllamaInventory
from joulebench.ollama.poller import OllamaPoller
from tests.unit.exporter.ollama_server import LLAMA, FakeOllama, ollama_server
from tests.unit.exporter.snapshots import MODELS, ManualClock


@pytest.fixture
def fake() -> Iterator[FakeOllama]:
    with ollama_server(FakeOllama()) as running:
        yield running


@pytest.fixture
def poller(fake: FakeOllama) -> Iterator[OllamaPoller]:
    with closing(OllamaApi(fake.url, timeout=0.2)) as api:
        yield OllamaPoller(api, SystemClock())


def series(poller: OllamaPoller) -> list[str]:
    text = Exposition([OllamaCollector(poller)], SystemClock(), process=False).render()[0].decode()
    return [line for line in text.splitlines() if line.startswith("joulebench_ollama")]


def test_up_then_gone_then_up_again(poller: OllamaPoller, fake: FakeOllama, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "joulebench")
    poller.poll()
    first = series(poller)
    assert "joulebench_ollama_up 1.0" in first
    assert 'joulebench_ollama_model_offload_ratio{model="llama3.1:8b"} 0.75' in first
    fake.status = 500
    poller.poll()
    poller.poll()
    assert series(poller) == ["joulebench_ollama_up 0.0"]
    fake.status = 200
    poller.poll()
    assert series(poller) == first
    assert [record.getMessage() for record in caplog.records] == [
        "Ollama does not answer: GET /api/version: HTTP 500",
        "Ollama answers again",
    ]


def test_a_model_that_is_unloaded_leaves_no_series(poller: OllamaPoller, fake: FakeOllama) -> None:
    poller.poll()
    fake.bodies["/api/ps"] = {"models": []}
    poller.poll()
    assert series(poller) == [
        "joulebench_ollama_up 1.0",
        'joulebench_ollama_info{version="0.17.4"} 1.0',
        "joulebench_ollama_models_available 2.0",
        'joulebench_ollama_model_loads_total{model="llama3.1:8b"} 0.0',
        'joulebench_ollama_model_loads_total{model="qwen3:4b"} 0.0',
        'joulebench_ollama_model_unloads_total{model="llama3.1:8b"} 1.0',
        'joulebench_ollama_model_unloads_total{model="qwen3:4b"} 0.0',
        "joulebench_ollama_models_loaded 0.0",
    ]


def counts(poller: OllamaPoller) -> tuple[dict[str, int], dict[str, int]]:
    latest = poller.latest()
    assert latest is not None
    return dict(latest.loads), dict(latest.unloads)


def test_loads_and_unloads_are_counted_also_over_an_ollama_that_was_gone(poller: OllamaPoller, fake: FakeOllama) -> None:
    llama, qwen = LLAMA, LLAMA | {"name": "qwen3:4b", "digest": "q"}
    for loaded, loads, unloads in (
        ([llama], 0, 0),
        ([llama, qwen], 1, 0),
        ([llama, qwen], 1, 0),
        ([llama], 1, 1),
        (None, 1, 1),
        ([qwen], 2, 1),
        ([qwen | {"digest": "q2"}], 3, 2),
    ):
        fake.status = 500 if loaded is None else 200
        fake.bodies["/api/ps"] = {"models": loaded}
        poller.poll()
        assert [counts(poller)[0]["qwen3:4b"], counts(poller)[1]["qwen3:4b"]] == [loads, unloads]
    # Gone with the server that went: seen when it came back.
    assert counts(poller)[1]["llama3.1:8b"] == 1


@pytest.mark.parametrize("body", [b'{"models": [{"na', b"<html>", [1]])
def test_nonsense_leaves_no_series_of_before(poller: OllamaPoller, fake: FakeOllama, body: object) -> None:
    poller.poll()
    fake.bodies["/api/ps"] = body
    poller.poll()
    assert series(poller) == ["joulebench_ollama_up 0.0"]


def test_a_slow_server_does_not_hold_up_the_scrape(fake: FakeOllama) -> None:
    fake.open.clear()
    with closing(OllamaApi(fake.url, timeout=30)) as api:
        poller = OllamaPoller(api, SystemClock())
        poller.start()
        assert series(poller) == []
        poller.stop()
        fake.open.set()


class Stuck:
    """Answers once; after that it hangs until the test lets go, as a server that sends a byte now and then makes it."""

    def __init__(self) -> None:
        self.answers = 0
        self.hangs = threading.Event()
        self.let_go = threading.Event()

    def inventory(self) -> OllamaInventory:
        self.answers += 1
        if self.answers > 1:
            self.hangs.set()
            self.let_go.wait()
            raise OllamaError("let go")
        return MODELS

    def close(self) -> None:
        pass


def test_what_was_seen_long_ago_is_not_shown_as_now() -> None:
    clock = ManualClock()
    source = Stuck()
    poller = OllamaPoller(source, clock, period=0.001)
    poller.start()
    assert source.hangs.wait(5)
    assert "joulebench_ollama_up 1.0" in series(poller)
    clock.running += 5.1
    assert series(poller) == ["joulebench_ollama_up 0.0"]
    source.let_go.set()
    poller.stop()


def test_an_ollama_that_never_answers_is_down_and_not_unknown_for_ever(fake: FakeOllama) -> None:
    clock = ManualClock()
    with closing(OllamaApi(fake.url)) as api:
        poller = OllamaPoller(api, clock, period=1.0)
        assert series(poller) == []
        clock.running += 8.1
        assert series(poller) == ["joulebench_ollama_up 0.0"]


class Failing:
    def __init__(self, stop: Callable[[], None]) -> None:
        self.calls = 0
        self.stop = stop

    def inventory(self) -> OllamaInventory:
        self.calls += 1
        if self.calls == 1:
            raise RuntimeError("nobody thought of this")
        self.stop()
        return MODELS

    def close(self) -> None:
        pass


def test_the_thread_outlives_an_error_nobody_thought_of(caplog: pytest.LogCaptureFixture) -> None:
    again = threading.Event()
    poller = OllamaPoller(Failing(again.set), SystemClock(), period=0.001)
    poller.start()
    assert again.wait(5)
    poller.stop()
    assert "joulebench_ollama_up 1.0" in series(poller)
    assert "nobody thought of this" in caplog.text
