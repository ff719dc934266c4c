"""Bytes of a model's KV cache, computed from the metadata of its file as llama.cpp lays the cache out.

Ollama reports nothing about its cache, so this is an estimate, and only where the layout is known: full attention, and sliding
windows whose pattern is known. Latent attention (MLA), recurrent and hybrid layers, and layers that share a cache have another
layout; for them there is no number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from joulebench.parsing import as_float
from joulebench.units import Bytes

ELEMENT_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes of one number by cache type; the quantised ones come in blocks of 32 with a scale of 2 bytes."""

WINDOW_PATTERNS = {"gemma2": 2, "gemma3": 6, "gptoss": 2, "gpt-oss": 2, "cohere2": 4}
"""Every N-th layer has full attention and the others a sliding window, where the file does not say which."""

BATCH_TOKENS = 512
WINDOW_STEP = 256
"""A sliding window's cache holds the window and a batch beside it, rounded up."""

UNKNOWN_LAYOUT_KEYS = (
    "attention.kv_lora_rank",
    "attention.key_length_mla",
    "attention.shared_kv_layers",
    "full_attention_interval",
)
RECURRENT = ("ssm.", "wkv", "shortconv.", "recurrent")

MAX_LAYERS = 10_000
MAX_COUNT = 10**9
"""What no model has: more is an error of its file, and must cost no memory here."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """How the Ollama server was started, which its API does not report: OLLAMA_KV_CACHE_TYPE and OLLAMA_NUM_PARALLEL."""

    kind: str = "f16"
    parallel: int = 1


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """Numbers that one token adds to the cache, over all layers with full attention and over all with a window."""

    full: float
    windowed: float
    window: int

    def bytes(self, context: int, settings: CacheSettings) -> Bytes:
        """For a context of that many tokens in each of the parallel slots."""
        window_tokens = math.ceil((self.window + BATCH_TOKENS) / WINDOW_STEP) * WINDOW_STEP
        numbers = self.full * context + self.windowed * min(context, window_tokens)
        return Bytes(numbers * settings.parallel * ELEMENT_BYTES[settings.kind])


def layout_of(model_info: Mapping[str, Any]) -> CacheLayout | None:
    """From ``model_info`` of /api/show; None where the layout is not known, or the metadata does not say enough."""
    architecture = model_info.get("general.architecture")
    if not isinstance(architecture, str):
        return None
    info = {name.removeprefix(f"{architecture}."): value for name, value in model_info.items()}
    if any(info.get(name) for name in UNKNOWN_LAYOUT_KEYS) or any(name.startswith(RECURRENT) for name in info):
        return None
    layers = _count(info.get("block_count"))
    if not layers or layers > MAX_LAYERS or info.get("attention.causal") is False:
        return None
    heads = _by_layer(info.get("attention.head_count_kv", info.get("attention.head_count")), layers)
    if heads is None or 0 in heads:
        return None
    windowed = _windowed_layers(architecture, info, layers)
    full, slid = _head_numbers(info, ""), _head_numbers(info, "_swa")
    if windowed is None or full is None:
        return None
    per_layer = [count * ((slid or full) if is_windowed else full) for count, is_windowed in zip(heads, windowed, strict=True)]
    in_windows = sum(numbers for numbers, is_windowed in zip(per_layer, windowed, strict=True) if is_windowed)
    return CacheLayout(sum(per_layer) - in_windows, in_windows, _count(info.get("attention.sliding_window")) or 0)


def _windowed_layers(architecture: str, info: Mapping[str, Any], layers: int) -> list[bool] | None:
    if not info.get("attention.sliding_window"):
        return [False] * layers
    pattern = info.get("attention.sliding_window_pattern", WINDOW_PATTERNS.get(architecture))
    if isinstance(pattern, list):
        return [bool(windowed) for windowed in pattern] if len(pattern) == layers else None
    every = _count(pattern)
    return [number % every != every - 1 for number in range(layers)] if every else None


def _head_numbers(info: Mapping[str, Any], suffix: str) -> float | None:
    """Of one head: key and value."""
    key, value = (_count(info.get(f"attention.{part}_length{suffix}")) for part in ("key", "value"))
    if not suffix and (key is None or value is None):
        width, heads = _count(info.get("embedding_length")), _count(info.get("attention.head_count"))
        # As llama.cpp does where the file names no length of its own.
        head = width // heads if width and heads else None
        key, value = key or head, value or head
    return key + value if key and value else None


def _by_layer(value: object, layers: int) -> list[int] | None:
    """One count for all layers, or a list; Ollama leaves longer lists out of a short answer, and then it is not known."""
    if isinstance(value, list):
        counts = [count for each in value if (count := _count(each)) is not None] if len(value) == layers else []
        return counts if len(counts) == layers else None
    count = _count(value)
    return None if count is None else [count] * layers


def _count(value: object) -> int | None:
    """A whole number that a model can have of something; None for anything else."""
    number = as_float(value)
    return int(number) if number is not None and 0 <= number <= MAX_COUNT and number.is_integer() else None
