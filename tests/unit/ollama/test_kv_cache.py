"""KV caches by hand: the sizes that llama.cpp tells for these models when it loads them, and no number for other layouts."""

from __future__ import annotations

from typing import Any

import pytest

from joulebench.ollama.kv_cache import CacheSettings, layout_of

MIB = 2**20


def info(architecture: str, **values: object) -> dict[str, Any]:
    named = {name.replace("__", "."): value for name, value in values.items()}
    return {"general.architecture": architecture, **{f"{architecture}.{name}": value for name, value in named.items()}}


LLAMA_8B = info("llama", block_count=32, embedding_length=4096, attention__head_count=32, attention__head_count_kv=8)
QWEN3_8B = info(
    "qwen3",
    block_count=36,
    embedding_length=4096,
    attention__head_count=32,
    attention__head_count_kv=8,
    attention__key_length=128,
    attention__value_length=128,
)
GEMMA3_1B = info(
    "gemma3",
    block_count=26,
    embedding_length=1152,
    attention__head_count=4,
    attention__head_count_kv=1,
    attention__key_length=256,
    attention__value_length=256,
    attention__sliding_window=512,
)
NO_GQA = info("gpt2", block_count=12, embedding_length=768, attention__head_count=12)


@pytest.mark.parametrize(
    ("model_info", "context", "kind", "parallel", "mib"),
    [
        (LLAMA_8B, 8192, "f16", 1, 1024),
        (LLAMA_8B, 8192, "q8_0", 1, 544),
        (LLAMA_8B, 8192, "q4_0", 1, 288),
        (LLAMA_8B, 4096, "f16", 4, 2048),
        (QWEN3_8B, 32768, "f16", 1, 4608),
        (NO_GQA, 1024, "f16", 1, 36),
        # 4 full layers of 1 KiB a token, 22 that hold at most 512 + 512 tokens.
        (GEMMA3_1B, 32768, "f16", 1, 128 + 22),
        (GEMMA3_1B, 512, "f16", 1, 13),
    ],
)
def test_sizes_are_those_of_the_formula(model_info: dict[str, Any], context: int, kind: str, parallel: int, mib: float) -> None:
    layout = layout_of(model_info)
    assert layout is not None
    assert layout.bytes(context, CacheSettings(kind, parallel)) == pytest.approx(mib * MIB)


def test_windows_may_have_heads_and_a_pattern_of_their_own() -> None:
    layout = layout_of(
        info(
            "gemma4",
            block_count=3,
            attention__head_count_kv=[2, 2, 1],
            attention__key_length=512,
            attention__value_length=512,
            attention__key_length_swa=256,
            attention__value_length_swa=256,
            attention__sliding_window=1024,
            attention__sliding_window_pattern=[True, True, False],
        )
    )
    assert layout is not None
    assert (layout.full, layout.windowed, layout.window) == (1024.0, 2048.0, 1024)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention.kv_lora_rank": 512},
        {"attention.shared_kv_layers": 10},
        {"ssm.state_size": 128},
        {"shortconv.l_cache": 3},
        {"full_attention_interval": 4},
        {"attention.head_count_kv": [8, 0] * 16},
        {"attention.head_count_kv": []},
        {"attention.head_count_kv": None},
        {"attention.head_count_kv": [8, "x"] * 16},
        {"attention.sliding_window": 4096},
        {"attention.causal": False},
        {"block_count": None},
        {"block_count": "32"},
        {"block_count": 1e999},
        {"block_count": 10**400},
        {"block_count": 10**12},
        {"block_count": 32.5},
        {"attention.head_count_kv": float("nan")},
        {"attention.head_count_kv": 10**400},
        {"embedding_length": -1},
        {"embedding_length": None},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_layout_or_a_gap_has_no_number(changes: dict[str, object]) -> None:
    assert layout_of({**LLAMA_8B, **{f"llama.{name}": value for name, value in changes.items()}}) is None


def test_metadata_without_an_architecture_has_no_number() -> None:
    assert layout_of({}) is None
