"""Models of Ollama on disk and in memory, polled by the exporter; the series of a model end when it is unloaded."""

from __future__ import annotations

from joulebench.metrics.metric import counter, gauge

OLLAMA_UP = gauge("ollama_up", "1 while the Ollama API answers, else 0.")
OLLAMA_INFO = gauge("ollama_info", "Version of the Ollama server, constant 1 (/api/version).", ("version",))
OLLAMA_MODELS_AVAILABLE = gauge("ollama_models_available", "Models that Ollama has on disk (/api/tags).")
OLLAMA_MODELS_LOADED = gauge("ollama_models_loaded", "Models that Ollama has in memory (/api/ps).")
OLLAMA_MODEL_INFO = gauge(
    "ollama_model_info",
    "Family, size and quantization of a loaded model, constant 1 (/api/ps details).",
    ("model", "family", "parameter_size", "quantization"),
)
OLLAMA_MODEL_SIZE = gauge(
    "ollama_model_size_bytes", "Memory of a loaded model, on CPU and GPU together (/api/ps size).", ("model",)
)
OLLAMA_MODEL_VRAM = gauge("ollama_model_vram_bytes", "GPU memory of a loaded model (/api/ps size_vram).", ("model",))
OLLAMA_MODEL_OFFLOAD = gauge(
    "ollama_model_offload_ratio",
    "Share of a loaded model that is in GPU memory; below 1 some layers run on the CPU.",
    ("model",),
)
OLLAMA_MODEL_CONTEXT = gauge(
    "ollama_model_context_tokens", "Context length of a loaded model (/api/ps context_length).", ("model",)
)
OLLAMA_MODEL_EXPIRES = gauge(
    "ollama_model_expires_timestamp_seconds", "When a loaded model will be unloaded (/api/ps expires_at).", ("model",)
)
OLLAMA_MODEL_KV_CACHE = gauge(
    "ollama_model_kv_cache_bytes",
    "KV cache of a loaded model at its full context, estimated from its file's metadata (/api/show); absent for layouts other"
    " than full or sliding-window attention.",
    ("model",),
)
OLLAMA_MODEL_LOADS = counter("ollama_model_loads_total", "Loads of the model that the exporter observed.", ("model",))
OLLAMA_MODEL_UNLOADS = counter("ollama_model_unloads_total", "Unloads of the model that the exporter observed.", ("model",))
