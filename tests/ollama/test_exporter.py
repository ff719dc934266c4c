"""The exporter beside a real Ollama: what it shows is what Ollama itself says, and nothing of what is gone stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from joulebench import metrics as m
from joulebench.clock import wait_until
from joulebench.metrics import Metric
from joulebench.ollama.inventory import unix_time
from tests.ollama.server import CONTEXT, MODEL, OllamaServer
from tests.unit.exporter.exporter_process import Exporter, exporter

pytestmark = pytest.mark.ollama

NAME = f"{MODEL}:latest"
PATIENCE = 60.0
"""Seconds; the exporter looks every five."""


@pytest.fixture
def watching(ollama: OllamaServer) -> Iterator[Exporter]:
    with exporter("--gpu-source", "simulated", "--ollama.url", ollama.url) as running:
        yield running


def values(running: Exporter, metric: Metric) -> dict[tuple[str, ...], float]:
    """By the values of its labels."""
    status, text = running.get("/metrics")
    assert status == 200
    return {
        tuple(sample.labels[label] for label in metric.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == metric.name
    }


def shows(running: Exporter, metric: Metric, wanted: dict[tuple[str, ...], float]) -> bool:
    return wait_until(lambda: values(running, metric) == wanted, PATIENCE, interval=0.3)


def of_model(running: Exporter) -> set[str]:
    """Names of all series that say something of a model in memory."""
    _, text = running.get("/metrics")
    counters = (m.OLLAMA_MODEL_LOADS.name, m.OLLAMA_MODEL_UNLOADS.name)
    return {
        sample.name
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("joulebench_ollama_model_") and not sample.name.startswith(counters)
    }


def test_what_is_shown_of_a_loaded_model_is_what_ollama_says(ollama: OllamaServer, watching: Exporter) -> None:
    assert shows(watching, m.OLLAMA_UP, {(): 1.0})
    (told,) = ollama.ask("/api/ps")["models"]
    assert told["name"] == NAME
    details = told["details"]
    described = (NAME, details["family"], details["parameter_size"], details["quantization_level"])
    assert values(watching, m.OLLAMA_INFO) == {(ollama.ask("/api/version")["version"],): 1.0}
    assert values(watching, m.OLLAMA_MODELS_AVAILABLE) == {(): len(ollama.ask("/api/tags")["models"])}
    assert values(watching, m.OLLAMA_MODELS_LOADED) == {(): 1.0}
    assert values(watching, m.OLLAMA_MODEL_INFO) == {described: 1.0}
    assert values(watching, m.OLLAMA_MODEL_SIZE) == {(NAME,): told["size"]}
    # On a CPU: known to be none, which is another thing than not known.
    assert told["size_vram"] == 0
    assert values(watching, m.OLLAMA_MODEL_VRAM) == {(NAME,): 0.0}
    assert values(watching, m.OLLAMA_MODEL_OFFLOAD) == {(NAME,): 0.0}
    assert told["context_length"] == CONTEXT
    assert values(watching, m.OLLAMA_MODEL_CONTEXT) == {(NAME,): CONTEXT}
    expiry = unix_time(told["expires_at"])
    assert expiry is not None
    assert values(watching, m.OLLAMA_MODEL_EXPIRES)[NAME,] == pytest.approx(expiry, abs=1.0)


def test_the_estimated_cache_is_the_one_that_ollama_allocates(ollama: OllamaServer, watching: Exporter) -> None:
    """Ollama's log alone tells its size; /api/show, from which it is computed, does not."""
    assert shows(watching, m.OLLAMA_MODELS_LOADED, {(): 1.0})
    allocated = ollama.said(r"KV buffer size = +([\d.]+) MiB")
    assert allocated
    assert values(watching, m.OLLAMA_MODEL_KV_CACHE) == {(NAME,): pytest.approx(float(allocated[-1]) * 1024**2, rel=1e-3)}


def test_loads_and_unloads_are_counted_and_an_unloaded_model_leaves_nothing_behind(
    ollama: OllamaServer, watching: Exporter
) -> None:
    assert shows(watching, m.OLLAMA_MODELS_LOADED, {(): 1.0})
    # It was there before anyone looked.
    assert values(watching, m.OLLAMA_MODEL_LOADS) == {(NAME,): 0.0}
    for times in (1, 2):
        ollama.unload()
        assert shows(watching, m.OLLAMA_MODELS_LOADED, {(): 0.0})
        assert of_model(watching) == set()
        assert values(watching, m.OLLAMA_MODEL_UNLOADS) == {(NAME,): times}
        ollama.load()
        assert shows(watching, m.OLLAMA_MODELS_LOADED, {(): 1.0})
        assert values(watching, m.OLLAMA_MODEL_LOADS) == {(NAME,): times}
        assert values(watching, m.OLLAMA_MODEL_SIZE) == {(NAME,): ollama.ask("/api/ps")["models"][0]["size"]}


def test_a_server_that_is_gone_is_down_and_its_model_with_it(ollama: OllamaServer, watching: Exporter) -> None:
    assert shows(watching, m.OLLAMA_UP, {(): 1.0})
    assert of_model(watching)
    ollama.kill()
    try:
        assert shows(watching, m.OLLAMA_UP, {(): 0.0})
        _, text = watching.get("/metrics")
        told = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
        assert {name for name in told if name.startswith("joulebench_ollama_")} == {m.OLLAMA_UP.name}
    finally:
        ollama.start()
    assert shows(watching, m.OLLAMA_UP, {(): 1.0})
    assert values(watching, m.OLLAMA_MODELS_LOADED) == {(): 0.0}
    # What it held before is not there after a crash, so that is an unload.
    assert values(watching, m.OLLAMA_MODEL_UNLOADS) == {(NAME,): 1.0}
    ollama.load()
    assert shows(watching, m.OLLAMA_MODEL_CONTEXT, {(NAME,): CONTEXT})
