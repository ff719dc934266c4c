"""One collector that breaks, is slow or is not asked for changes nothing for the others."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest

from joulebench import metrics
from joulebench.exporter.exposition import Exposition
from joulebench.metrics import Metric
from joulebench.metrics.families import Sheet
from tests.unit.exporter.snapshots import ManualClock


@dataclass
class Scripted:
    """A collector that does what the test says and counts how often it was run."""

    name: str
    metrics: tuple[Metric, ...]
    clock: ManualClock
    takes: float = 0.0
    broken: bool = False
    runs: int = 0

    def collect(self, sheet: Sheet) -> None:
        self.runs += 1
        self.clock.running += self.takes
        sheet.value(self.metrics[0], 5.0)
        if self.broken:
            raise RuntimeError("sensor on fire")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def first(clock: ManualClock) -> Scripted:
    return Scripted("first", (metrics.OLLAMA_MODELS_LOADED,), clock, takes=0.25)


@pytest.fixture
def second(clock: ManualClock) -> Scripted:
    return Scripted("second", (metrics.EXPORTER_CLOCK,), clock, takes=0.5)


@pytest.fixture
def both(first: Scripted, second: Scripted, clock: ManualClock) -> Exposition:
    return Exposition([first, second], clock)


def test_registering_runs_no_collector(both: Exposition, first: Scripted, second: Scripted) -> None:
    assert (first.runs, second.runs) == (0, 0)


def test_a_failing_collector_leaves_the_other_whole_and_itself_absent(both: Exposition, first: Scripted) -> None:
    first.broken = True
    text = both.render()[0].decode()
    assert "joulebench_ollama_models_loaded" not in text
    assert "joulebench_exporter_clock_timestamp_seconds 5.0" in text
    assert 'joulebench_exporter_collector_success{collector="first"} 0.0' in text
    assert 'joulebench_exporter_collector_success{collector="second"} 1.0' in text


def test_each_collector_tells_its_own_duration(both: Exposition) -> None:
    text = both.render()[0].decode()
    assert 'joulebench_exporter_collector_duration_seconds{collector="first"} 0.25' in text
    assert 'joulebench_exporter_collector_duration_seconds{collector="second"} 0.5' in text


def test_a_failure_is_logged_once_and_the_recovery_once(
    both: Exposition, first: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for first.broken in (False, True, True, True, False, False, True):
        both.render()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "collector first fails: RuntimeError: sensor on fire"),
        ("INFO", "collector first works again"),
        ("ERROR", "collector first fails: RuntimeError: sensor on fire"),
    ]


def test_a_filtered_scrape_runs_only_the_collectors_it_names(both: Exposition, first: Scripted, second: Scripted) -> None:
    text = both.render([metrics.EXPORTER_CLOCK.name])[0].decode()
    assert (first.runs, second.runs) == (0, 1)
    assert [line for line in text.splitlines() if not line.startswith("#")] == ["joulebench_exporter_clock_timestamp_seconds 5.0"]


def test_a_filtered_scrape_for_an_unknown_name_is_empty_and_runs_nothing(
    both: Exposition, first: Scripted, second: Scripted
) -> None:
    assert both.render(["joulebench_nothing"])[0] == b""
    assert (first.runs, second.runs) == (0, 0)


def test_the_process_itself_is_in_the_scrape_and_can_be_named(both: Exposition) -> None:
    text = both.render(["process_resident_memory_bytes"])[0].decode()
    assert text.splitlines()[-1].startswith("process_resident_memory_bytes ")
