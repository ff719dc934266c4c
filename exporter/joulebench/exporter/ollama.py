"""The Ollama inventory as its poller last saw it; a model that is unloaded, or a server that is gone, leaves no series behind."""

from __future__ import annotations

from typing import Protocol

from joulebench import metrics
from joulebench.exporter.collector import Values
from joulebench.ollama.inventory import LoadedModel
from joulebench.ollama.poller import OllamaSight


class SightProvider(Protocol):
    def sight(self) -> OllamaSight | None:
        """The last poll; None before the first is through."""
        ...


class OllamaCollector:
    name = "ollama"
    metrics = (
        metrics.OLLAMA_UP,
        metrics.OLLAMA_INFO,
        metrics.OLLAMA_MODELS_AVAILABLE,
        metrics.OLLAMA_MODELS_LOADED,
        metrics.OLLAMA_MODEL_INFO,
        metrics.OLLAMA_MODEL_SIZE,
        metrics.OLLAMA_MODEL_VRAM,
        metrics.OLLAMA_MODEL_OFFLOAD,
        metrics.OLLAMA_MODEL_CONTEXT,
        metrics.OLLAMA_MODEL_EXPIRES,
        metrics.OLLAMA_MODEL_KV_CACHE,
        metrics.OLLAMA_MODEL_LOADS,
        metrics.OLLAMA_MODEL_UNLOADS,
    )

    def __init__(self, provider: SightProvider) -> None:
        self._provider = provider

    def collect(self, sheet: Values) -> None:
        sight = self._provider.sight()
        if sight is None:
            return
        inventory = sight.inventory
        sheet.value(metrics.OLLAMA_UP, float(inventory is not None))
        if inventory is None:
            return
        if inventory.version is not None:
            sheet.value(metrics.OLLAMA_INFO, 1.0, (inventory.version,))
        sheet.value(metrics.OLLAMA_MODELS_AVAILABLE, None if inventory.available is None else len(inventory.available))
        for metric, counts in ((metrics.OLLAMA_MODEL_LOADS, sight.loads), (metrics.OLLAMA_MODEL_UNLOADS, sight.unloads)):
            for name, count in counts.items():
                sheet.value(metric, count, (name,))
        if inventory.loaded is None:
            return
        sheet.value(metrics.OLLAMA_MODELS_LOADED, len(inventory.loaded))
        for model in inventory.loaded:
            _model(sheet, model)


def _model(sheet: Values, model: LoadedModel) -> None:
    labels = (model.name,)
    sheet.value(metrics.OLLAMA_MODEL_INFO, 1.0, (model.name, model.family, model.parameter_size, model.quantization))
    sheet.value(metrics.OLLAMA_MODEL_SIZE, model.size, labels)
    sheet.value(metrics.OLLAMA_MODEL_VRAM, model.size_vram, labels)
    sheet.value(metrics.OLLAMA_MODEL_OFFLOAD, model.offload, labels)
    sheet.value(metrics.OLLAMA_MODEL_CONTEXT, model.context_length, labels)
    sheet.value(metrics.OLLAMA_MODEL_EXPIRES, model.expires_at, labels)
    sheet.value(metrics.OLLAMA_MODEL_KV_CACHE, model.kv_cache, labels)
