"""Recording rules bring what model servers tell to the same names, for every version that a capture pins.

Each capture becomes the input of a promtool test: its counters grow by their value in a minute, its gauges stand still. What the
rules make of it is worked out by hand here, name by name; a renamed series of a server is a missing row.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.contract.model_servers import CAPTURES, Sample, captured
from tests.contract.sources import ROOT, loaded

RULES = ROOT / "prometheus/rules/model_servers.yml"
JOBS = ROOT / "prometheus/model_servers.yml"
RECORDED = re.compile(r"server:joulebench_server_(\w+):(\w+)")

LATENCIES = {
    "time_to_first_token_seconds:p50_5m": 0.08,
    "time_to_first_token_seconds:p95_5m": 0.098,
    "inter_token_seconds:p50_5m": 0.025,
    "inter_token_seconds:p95_5m": 0.0475,
}
VLLM = {
    "prompt_tokens:rate1m": 150.0,
    "completion_tokens:rate1m": 40.0,
    "cached_prompt_tokens:ratio1m": 0.5,
    "running_requests:sum": 4.0,
    "waiting_requests:sum": 2.0,
    "kv_cache:ratio": 0.5,
    **LATENCIES,
}
SGLANG = {
    "prompt_tokens:rate1m": 100.0,
    "completion_tokens:rate1m": 20.0,
    "running_requests:sum": 5.0,
    "waiting_requests:sum": 7.0,
    "kv_cache:ratio": 0.28,
    **LATENCIES,
}
EXPECTED: dict[str, tuple[str, str, dict[str, float]]] = {
    "vllm__0.26.0": ("vllm", "Qwen/Qwen3-8B", VLLM),
    "vllm__0.9": ("vllm", "Qwen/Qwen3-8B", VLLM),
    "sglang__0.5.17": ("sglang", "meta-llama/Llama-3.1-8B-Instruct", {**SGLANG, "cached_prompt_tokens:ratio1m": 0.25}),
    "sglang__0.4": ("sglang", "meta-llama/Llama-3.1-8B-Instruct", SGLANG),
    "llama.cpp__xllamacpp-2026.10.11549": (
        "llama.cpp",
        "smollm2",
        {
            "prompt_tokens:rate1m": (15 + 24) / 60,
            "completion_tokens:rate1m": 60 / 60,
            "cached_prompt_tokens:ratio1m": 24 / 39,
            "running_requests:sum": 0.0,
            "waiting_requests:sum": 0.0,
        },
    ),
    "llama.cpp__b6700": (
        "llama.cpp",
        "smollm2",
        {
            "prompt_tokens:rate1m": 20.0,
            "completion_tokens:rate1m": 10.0,
            "running_requests:sum": 1.0,
            "waiting_requests:sum": 4.0,
        },
    ),
}


def input_series(samples: Sequence[Sample], scraped: dict[str, str]) -> list[dict[str, str]]:
    """Of five minutes, a sample every five seconds. ``scraped``: labels that the scrape adds."""
    made = []
    for sample in samples:
        labels = ", ".join(f'{name}="{value}"' for name, value in {**sample.labels, **scraped}.items())
        step = sample.value / 12 if sample.kind in ("counter", "histogram") else 0.0
        start = 0.0 if step else sample.value
        made.append({"series": f"{sample.name}{{{labels}}}", "values": f"{start!r}+{step!r}x60"})
    return made


def recorded() -> list[str]:
    """Every name that the rules record, without its frame."""
    names = dict.fromkeys(rule["record"] for group in loaded(RULES)["groups"] for rule in group["rules"])
    return [f"{match.group(1)}:{match.group(2)}" for name in names if (match := RECORDED.fullmatch(name))]


def promtool_test(directory: Path, inputs: Sequence[dict[str, str]], labels: str, expected: dict[str, float]) -> Path:
    """Each recorded name is asked for; one that is not expected must have no series. In hundred-thousandths:
    promtool compares exactly, and a quantile is a fraction."""
    cases = [
        {
            "expr": f"round(1e5 * server:joulebench_server_{name})",
            "eval_time": "5m",
            "exp_samples": [{"labels": labels, "value": round(1e5 * expected[name])}] if name in expected else [],
        }
        for name in recorded()
    ]
    file = directory / "test.yml"
    test = {"interval": "5s", "input_series": list(inputs), "promql_expr_test": cases}
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "5s", "tests": [test]}), encoding="utf-8")
    return file


def run(promtool: Path, *arguments: str | Path) -> None:
    done = subprocess.run([promtool, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_capture_is_expected_and_every_rule_has_the_agreed_form() -> None:
    assert {path.name.removesuffix(".prom") for path in CAPTURES} == set(EXPECTED)
    rules = [rule for group in loaded(RULES)["groups"] for rule in group["rules"]]
    for rule in rules:
        assert RECORDED.fullmatch(rule["record"]), rule["record"]
        assert rule["labels"]["server"] in ("vllm", "sglang", "llama.cpp", "proxy")
    assert set().union(*(names for _, _, names in EXPECTED.values())) == set(recorded())


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_a_servers_series_come_out_under_the_common_names(promtool: Path, tmp_path: Path, path: Path) -> None:
    server, model, expected = EXPECTED[path.name.removesuffix(".prom")]
    scraped = {"job": "model-server", "instance": "host:8000"}
    if server == "llama.cpp":
        scraped["model"] = model
    labels = f'{{instance="host:8000", job="model-server", model="{model}", server="{server}"}}'
    run(promtool, "test", "rules", promtool_test(tmp_path, input_series(captured(path), scraped), labels, expected))


def test_what_stands_behind_the_proxy_comes_out_under_them_too(promtool: Path, tmp_path: Path) -> None:
    """A task that appears with the tokens of its first request counts whole."""
    frame = 'job="joulebench-proxy", instance="proxy:18348"'
    old, new = (f'{frame}, run_id="r", task_id="{task}", model="m"' for task in ("1", "2"))
    inputs = [
        {"series": f"joulebench_proxy_prompt_tokens_total{{{old}}}", "values": "0+100x60"},
        {"series": f"joulebench_proxy_prompt_tokens_total{{{new}}}", "values": "_x54 600x6"},
        {"series": f"joulebench_proxy_cached_prompt_tokens_total{{{old}}}", "values": "0+75x60"},
        {"series": f"joulebench_proxy_completion_tokens_total{{{old}}}", "values": "0+10x60"},
        {"series": f"joulebench_proxy_completion_tokens_total{{{new}}}", "values": "_x54 300x6"},
        {"series": f'joulebench_proxy_requests_in_flight{{{frame}, model="m"}}', "values": "2x60"},
        *(
            {"series": f'{name}_bucket{{{frame}, model="m", le="{le}"}}', "values": f"0+{step}x60"}
            for name in ("joulebench_proxy_time_to_first_token_seconds", "joulebench_proxy_inter_token_seconds")
            for le, step in (("0.01", 0), ("0.03", 10), ("+Inf", 10))
        ),
    ]
    expected = {
        "prompt_tokens:rate1m": (1200 + 600) / 60,
        "completion_tokens:rate1m": (120 + 300) / 60,
        "cached_prompt_tokens:ratio1m": 900 / 1800,
        "running_requests:sum": 2.0,
        "time_to_first_token_seconds:p50_5m": 0.02,
        "time_to_first_token_seconds:p95_5m": 0.029,
        "inter_token_seconds:p50_5m": 0.02,
        "inter_token_seconds:p95_5m": 0.029,
    }
    labels = '{instance="proxy:18348", job="joulebench-proxy", model="m", server="proxy"}'
    run(promtool, "test", "rules", promtool_test(tmp_path, inputs, labels, expected))


def test_the_recommended_jobs_load_and_say_what_server_and_model_they_are_for(promtool: Path, tmp_path: Path) -> None:
    jobs = loaded(JOBS)["scrape_configs"]
    whole = loaded(ROOT / "prometheus/prometheus.yml")
    file = tmp_path / "prometheus.yml"
    both = {"global": whole["global"], "scrape_configs": [*whole["scrape_configs"], *jobs]}
    file.write_text(yaml.safe_dump(both), encoding="utf-8")
    run(promtool, "check", "config", file)
    assert [job["job_name"] for job in jobs] == ["vllm", "sglang", "llamacpp"]
    (llama,) = jobs[2]["static_configs"]
    assert "model" in llama["labels"], "llama-server names no model"
