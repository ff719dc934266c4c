"""The metrics of the real llama.cpp are those that its capture pins, and the recording rules count what it answered."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from tests.contract.model_servers import samples_of
from tests.contract.sources import ROOT
from tests.contract.test_model_servers import input_series, promtool_test, run
from tests.model.test_proxy import model

__all__ = ["model"]

pytestmark = pytest.mark.model

CAPTURE = next((ROOT / "tests/captures/model_servers").glob("llama.cpp__xllamacpp-*.prom"))


@pytest.fixture(scope="module")
def answered(model: str) -> tuple[str, list[dict[str, int]]]:
    """The page after three chats, and the usage that each of them told."""
    body = {"model": "smollm2", "messages": [{"role": "user", "content": "Count to ten."}], "max_tokens": 20}
    usages = [requests.post(f"{model}/v1/chat/completions", json=body, timeout=60).json()["usage"] for _ in range(3)]
    return requests.get(f"{model}/metrics", timeout=10).text, usages


def test_names_and_kinds_are_those_of_the_capture(answered: tuple[str, list[dict[str, int]]]) -> None:
    live = {(sample.name, sample.kind, *sorted(sample.labels)) for sample in samples_of(answered[0])}
    pinned = {(sample.name, sample.kind, *sorted(sample.labels)) for sample in samples_of(CAPTURE.read_text(encoding="utf-8"))}
    assert live == pinned, "another llama.cpp: capture its /metrics again, then look whether the rules still fit"


def test_the_rules_count_what_it_answered(promtool: Path, tmp_path: Path, answered: tuple[str, list[dict[str, int]]]) -> None:
    text, usages = answered
    prompt, completion = (sum(usage[f"{kind}_tokens"] for usage in usages) for kind in ("prompt", "completion"))
    cached = sum(sample.value for sample in samples_of(text) if sample.name == "llamacpp:prompt_tokens_cached_total")
    expected = {
        "prompt_tokens:rate1m": prompt / 60,
        "completion_tokens:rate1m": completion / 60,
        "cached_prompt_tokens:ratio1m": cached / prompt,
        "running_requests:sum": 0.0,
        "waiting_requests:sum": 0.0,
    }
    scraped = {"job": "llamacpp", "instance": "host:8080", "model": "smollm2"}
    labels = '{instance="host:8080", job="llamacpp", model="smollm2", server="llama.cpp"}'
    run(promtool, "test", "rules", promtool_test(tmp_path, input_series(samples_of(text), scraped), labels, expected))
