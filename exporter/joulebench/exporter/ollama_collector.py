"""The Ollama inventory of the last poll; a model that is unloaded, or a server that is gone, leaves no series behind."""

from __future__ import annotations

from typing import Protocol

from joulebench import metrics
from joulebench.metrics.families import Sheet
from joulebench.ollama.inventory import LoadedModel
from joulebench.ollama.poller import OllamaPoll


class PollProvider(Protocol):
    def latest(self) -> OllamaPoll | None:
        """The last poll; None before the first has ended."""
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

    def __init__(self, provider: PollProvider) -> None:
        self._provider = provider

    def collect(self, sheet: Sheet) -> None:
        poll = self._provider.latest()
        if poll is None:
            return
        inventory = poll.inventory
        sheet.value(metrics.OLLAMA_UP, float(inventory is not None))
        if inventory is None:
            return
        if inventory.version is not None:
            sheet.value(metrics.OLLAMA_INFO, 1.0, (inventory.version,))
        sheet.value(metrics.OLLAMA_MODELS_AVAILABLE, None if inventory.available is None else len(inventory.available))
        for metric, counts in ((metrics.OLLAMA_MODEL_LOADS, poll.loads), (metrics.OLLAMA_MODEL_UNLOADS, poll.unloads)):
            for name, count in counts.items():
                sheet.value(metric, count, (name,))
        if inventory.loaded is None:
            return
        sheet.value(metrics.OLLAMA_MODELS_LOADED, len(inventory.loaded))
        for model in inventory.loaded:
            _model(sheet, model)


def _model(sheet: Sheet, model: LoadedModel) -> None:
    labels = (model.name,)
    sheet.value(metrics.OLLAMA_MODEL_INFO, 1.0, (model.name, model.family, model.parameter_size, model.quantization))
    sheet.value(metrics.OLLAMA_MODEL_SIZE, model.size, labels)
    sheet.value(metrics.OLLAMA_MODEL_VRAM, model.size_vram, labels)
    sheet.value(metrics.OLLAMA_MODEL_OFFLOAD, model.offload, labels)
    sheet.value(metrics.OLLAMA_MODEL_CONTEXT, model.context_length, labels)
    sheet.value(metrics.OLLAMA_MODEL_EXPIRES, model.expires_at, labels)
    sheet.value(metrics.OLLAMA_MODEL_KV_CACHE, model.kv_cache, labels)
