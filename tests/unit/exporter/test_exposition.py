"""The text that Prometheus gets, whole and limited, against goldens, promtool and our own rules."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder

from joulebench import __version__
from joulebench.exporter.exporter_collector import ExporterCollector
from joulebench.exporter.exposition import Collector, Exposition, declared_metrics
from joulebench.exporter.gpu_collector import ENERGY_METRICS, GpuCollector, gpu_collectors
from joulebench.exporter.host_collector import HostCollector
from joulebench.exporter.ollama_collector import OllamaCollector
from joulebench.gpu.reading import GpuState
from joulebench.metrics.families import Sheet
from joulebench.ollama.poller import OllamaPoll
from joulebench.supervise import LoopErrors
from joulebench.units import Joules, Watts
from tests.goldens_support import Golden
from tests.unit.exporter.exposition_lint import complaints
from tests.unit.exporter.snapshots import FULL, LOST, MODELS, SHARED, SPARSE, Gpus, ManualClock, OllamaPolls, Zones

ENERGY_ONLY = ("joulebench_gpu_energy_joules_total", "joulebench_gpu_energy_sample_timestamp_seconds")


def collectors(states: Sequence[GpuState], ollama: OllamaPoll | None) -> list[Collector]:
    shared = [replace(state, processes=SHARED) if state.identity.index in (0, 2) else state for state in states]
    gpus = Gpus(shared, clock_steps=3)
    return [
        *gpu_collectors(gpus),
        HostCollector(Zones()),
        OllamaCollector(OllamaPolls(ollama)),
        ExporterCollector(lambda: "simulated", ManualClock(), gpus, errors()),
    ]


def errors() -> LoopErrors:
    """Of a process with one loop that never failed."""
    never_failed = LoopErrors()
    never_failed.register("gpu-energy")
    return never_failed


def scrape(made: Exposition, names: Sequence[str] | None = None) -> str:
    text = made.render(names)[0].decode()
    return text.replace(f'version="{__version__}"', 'version="VERSION"')


def everything() -> str:
    poll = OllamaPoll(MODELS, 0.0, loads={"llama3.1:8b": 2, "model-1": 0}, unloads={"llama3.1:8b": 1, "model-1": 0})
    return scrape(Exposition(collectors((FULL, SPARSE, LOST), poll), ManualClock(), process=False))


def test_the_whole_exposition_is_the_golden(golden: Golden) -> None:
    golden("exposition/full_sparse_and_lost_gpu.prom", everything())


def test_the_exposition_without_gpu_and_with_ollama_gone_is_the_golden(golden: Golden) -> None:
    bare: list[Collector] = [
        OllamaCollector(OllamaPolls(OllamaPoll(None, 0.0))),
        ExporterCollector(lambda: "none", ManualClock(), None, errors()),
    ]
    text = scrape(Exposition(bare, ManualClock(), process=False))
    golden("exposition/no_gpu_ollama_gone.prom", text)
    assert "_gpu_" not in text.replace("gpu_source", "")


def test_a_scrape_limited_to_the_energy_families_is_the_golden(golden: Golden) -> None:
    made = Exposition(collectors((FULL, LOST), None), ManualClock())
    golden("exposition/energy_only.prom", scrape(made, ENERGY_ONLY))


ODD = 'a \\ b" c\nd \u2028 é'


@pytest.mark.parametrize("accept", ["text/plain;version=0.0.4", "application/openmetrics-text;version=1.0.0"])
def test_every_scrape_of_a_series_of_scrapes_is_what_prometheus_client_prints(accept: str) -> None:
    gpus = Gpus((FULL, SPARSE, LOST))
    made = Exposition([*gpu_collectors(gpus)], ManualClock(), process=False)
    renamed = replace(FULL, identity=replace(FULL.identity, name=ODD, uuid="GPU-odd"))
    scenes: Sequence[tuple[GpuState, ...]] = (
        (FULL, SPARSE, LOST),
        (FULL, SPARSE, LOST),
        (replace(FULL, energy=Joules(1e9 + 1 / 3), polls=1_234_567, power=Watts(0.1 + 0.2)), SPARSE, LOST),
        (FULL, replace(SPARSE, up=False), renamed),
        (renamed,),
        (),
        (FULL, SPARSE, LOST),
    )
    for states in scenes:
        gpus.states = states
        text, library = made.render(None, accept)[0], library_text(gpus, accept)
        assert text[: len(library)] == library
        assert text[len(library) :].startswith(b"# HELP joulebench_exporter_collector_success ")


class Families:
    def __init__(self, gpus: Gpus) -> None:
        self._gpus = gpus

    def collect(self) -> Iterable[Metric]:
        sheet = Sheet()
        for collector in gpu_collectors(self._gpus):
            collector.collect(sheet)
        return sheet.families()


def library_text(gpus: Gpus, accept: str) -> bytes:
    """What prometheus_client alone prints of these GPUs."""
    encode, _ = choose_encoder(accept)
    return encode(cast(CollectorRegistry, Families(gpus))).removesuffix(b"# EOF\n")


def test_two_collectors_cannot_show_the_same_metric() -> None:
    twice = [GpuCollector(name, Gpus(()), ENERGY_METRICS) for name in ("one", "other")]
    with pytest.raises(ValueError, match="two collectors show joulebench_exporter_energy_overruns_total"):
        Exposition(twice, ManualClock())


def test_promtool_finds_nothing_to_complain_about(promtool: Path) -> None:
    checked = subprocess.run([promtool, "check", "metrics"], input=everything(), capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_units_ratios_counters_and_infos_follow_the_rules() -> None:
    assert list(complaints(everything())) == []


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("# HELP joulebench_a_percent x\n# TYPE joulebench_a_percent gauge\njoulebench_a_percent 3\n", "no known unit"),
        ("# HELP joulebench_a_ratio x\n# TYPE joulebench_a_ratio gauge\njoulebench_a_ratio 87\n", "is no ratio"),
        ("# HELP joulebench_a_info x\n# TYPE joulebench_a_info gauge\njoulebench_a_info 0\n", "an info is 1"),
        ("# HELP joulebench_a_watts x\n# TYPE joulebench_a_watts gauge\njoulebench_a_watts NaN\n", "NaN"),
        ("# HELP a_bytes x\n# TYPE a_bytes gauge\na_bytes 1\na_bytes 2\n", "more than once"),
        ("# TYPE a_bytes gauge\na_bytes 1\n", "no HELP"),
    ],
)
def test_the_rules_notice_what_they_are_for(text: str, wrong: str) -> None:
    assert any(wrong in complaint for complaint in complaints(text))


def test_every_declared_metric_is_shown_by_a_full_reading_and_no_other() -> None:
    shown = {line.split()[2] for line in everything().splitlines() if line.startswith("# TYPE")}
    assert shown == {metric.name for metric in declared_metrics(collectors((), None))}


def test_a_lost_gpu_shows_that_it_is_lost_and_no_reading() -> None:
    lines = [line for line in everything().splitlines() if 'uuid="GPU-cccc"' in line]
    assert {line.partition("{")[0] for line in lines} == {
        "joulebench_gpu_info",
        "joulebench_gpu_up",
        "joulebench_gpu_read_errors_total",
        "joulebench_gpu_glitches_total",
        "joulebench_exporter_energy_polls_total",
        "joulebench_exporter_energy_overruns_total",
    }


def test_counter_and_change_time_come_from_one_snapshot() -> None:
    gpus = Gpus((FULL,))
    scrape(Exposition([GpuCollector("energy", gpus, ENERGY_METRICS)], ManualClock(), process=False))
    assert gpus.snapshots == 1


def test_before_the_first_poll_nothing_is_said_of_ollama() -> None:
    text = scrape(Exposition([OllamaCollector(OllamaPolls(None))], ManualClock(), process=False))
    assert "joulebench_ollama" not in text
    assert 'joulebench_exporter_collector_success{collector="ollama"} 1.0' in text
