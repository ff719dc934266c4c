"""The inventory of a real Ollama (tests/captures/ollama_inventory.json), read by the exporter's own reader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from joulebench.ollama.inventory import OllamaApi
from joulebench.ollama.kv_cache import CacheSettings
from tests.unit.exporter.ollama_server import FakeOllama, ollama_server

RECORDED: dict[str, Any] = json.loads((Path(__file__).parents[2] / "captures/ollama_inventory.json").read_text(encoding="utf-8"))


@pytest.fixture
def fake() -> Iterator[FakeOllama]:
    with ollama_server(FakeOllama()) as running:
        running.bodies = {reply["path"]: reply["body"].encode() for reply in RECORDED["replies"]}
        yield running


def test_a_model_on_a_cpu_is_read_whole(fake: FakeOllama) -> None:
    with closing(OllamaApi(fake.url)) as api:
        found = api.inventory()
    assert RECORDED["server"] == f"Ollama {found.version}"
    assert found.available == ("smollm2-tools:latest",)
    (model,) = found.loaded or ()
    assert (model.name, model.family, model.parameter_size) == ("smollm2-tools:latest", "llama", "134.52M")
    assert (model.quantization, model.context_length) == ("Q4_1", 4096)
    assert [model.size_vram, model.offload] == [0.0, 0.0]
    assert model.expires_at is not None


def test_the_estimated_cache_is_what_ollama_wrote_into_its_log(fake: FakeOllama) -> None:
    allocated = RECORDED["kv_cache_bytes_in_its_log"]
    for kind, ratio in (("f16", 1.0), ("q8_0", 34 / 64)):
        with closing(OllamaApi(fake.url, cache=CacheSettings(kind))) as api:
            (model,) = api.inventory().loaded or ()
        assert model.kv_cache == pytest.approx(allocated * ratio)
