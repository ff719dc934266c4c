"""Real client packages through the proxy to the small model: each client's own report beside the results of Joulebench.

Requests and tokens are equal. Times are taken at different ends of a connection, and AIPerf's duration ends with the last token;
the table shows by how much they differ. What could not be installed (``install.sh``) is skipped with the reason.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest
import requests

from joulebench import cli
from joulebench.bench.embedded import EmbeddedModel
from joulebench.clock import wait_until
from joulebench.stack.process import free_port
from tests.clients.own_report import MAX_TOKENS, QUESTIONS
from tests.contract.sources import ROOT
from tests.needs import missing, need_model
from tests.unit.proxy.test_process import process, proxy_flags

INSTALLED = ROOT / ".build" / "clients"
REPORT = INSTALLED / "report.txt"
RUN = "clients"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "DO_NOT_TRACK": "1"}
TOKENIZER = "local/bytes"

Row = Mapping[str, float]
"""One request: prompt_tokens, completion_tokens, ttft, duration in seconds, as far as the client reports them."""


@dataclass
class Scene:
    model: str
    proxy: str
    metrics: str
    runs: Path

    def events(self, task: str, kind: str) -> list[dict[str, object]]:
        lines = [line for path in self.runs.glob(f"{RUN}/journal-*.jsonl") for line in path.read_text().splitlines()]
        return [event for event in map(json.loads, lines) if event["event_type"] == kind and event.get("task_id") == task]

    def calls(self, task: str, count: int) -> list[dict[str, object]]:
        wait_until(lambda: len(self.events(task, "LLM_QUERY_END")) >= count, seconds=10.0)
        return self.events(task, "LLM_QUERY_END")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    need_model()
    runs, metrics = tmp_path_factory.mktemp("runs"), f"127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        model = stack.enter_context(EmbeddedModel(parallel=2))
        exporter_flags = ("--web.listen-address", "127.0.0.1:0", "--gpu-source", "simulated", "--no-ollama")
        _, exporter = stack.enter_context(process("exporter", *exporter_flags))
        flags = ("--web.listen-address", metrics, "--exporter.url", exporter, "--runs-dir", str(runs))
        upstream = model.base_url.removesuffix("/v1")
        _, proxy = stack.enter_context(process("proxy", *proxy_flags(upstream), *flags))
        yield Scene(model.name, proxy, f"http://{metrics}/metrics", runs)


def environment(group: str) -> Path:
    """The programs of an installed group. Skips, with the reason, where it is not."""
    programs = INSTALLED / group / "bin"
    if not (INSTALLED / group / ".installed").exists():
        why = INSTALLED / f"{group}.why_not"
        missing(f"{group}: {why.read_text().strip() if why.exists() else 'make test-clients installs it'}")
    return programs


def run(command: Sequence[str | Path], directory: Path, **variables: str) -> str:
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **OFFLINE, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    return done.stdout


def library(name: str) -> Callable[[Scene, Path], list[Row]]:
    def own_report(scene: Scene, directory: Path) -> list[Row]:
        python = environment("libraries") / "python"
        url = f"{scene.proxy}/run/{RUN}/task/{name}/v1"
        printed = run([python, ROOT / "tests/clients/own_report.py", name, url, scene.model], directory)
        rows: list[Row] = json.loads(printed.splitlines()[-1])
        return rows

    return own_report


def aiperf(scene: Scene, directory: Path) -> list[Row]:
    programs = environment("aiperf")
    run([programs / "python", ROOT / "tests/clients/tokenizer.py", directory / "hub", TOKENIZER], directory)
    (directory / "prompts.jsonl").write_text("".join(json.dumps({"text": question}) + "\n" for question in QUESTIONS))
    command = f"""profile --model {scene.model} --url {scene.proxy}/run/{RUN}/task/aiperf --endpoint-type chat --streaming
        --tokenizer {TOKENIZER} --use-server-token-count --input-file prompts.jsonl --custom-dataset-type single_turn
        --request-count {len(QUESTIONS)} --concurrency 2 --extra-inputs max_tokens:{MAX_TOKENS} --artifact-dir own --ui none
        --no-server-metrics --no-gpu-telemetry"""
    run([programs / "aiperf", *command.split()], directory, HF_HUB_CACHE=str(directory / "hub"))
    records = [json.loads(line)["metrics"] for line in (directory / "own/profile_export.jsonl").read_text().splitlines()]
    names = {"prompt_tokens": "usage_prompt_tokens", "completion_tokens": "usage_completion_tokens"}
    return [
        {
            **{name: metrics[theirs]["value"] for name, theirs in names.items()},
            "ttft": metrics["time_to_first_token"]["value"] / 1000,
            "duration": metrics["request_latency"]["value"] / 1000,
        }
        for metrics in records
    ]


def lm_eval(scene: Scene, directory: Path) -> list[Row]:
    programs = environment("lm_eval")
    (directory / "words.jsonl").write_text("".join(json.dumps({"word": word}) + "\n" for word in ("one", "two", "blue")))
    (directory / "words.yaml").write_text(
        f"""task: words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {directory / "words.jsonl"}}}}}
test_split: test
output_type: generate_until
doc_to_text: "Say {{{{word}}}}."
doc_to_target: "{{{{word}}}}"
generation_kwargs: {{max_gen_toks: {MAX_TOKENS}, until: ["\\n\\n"]}}
metric_list: [{{metric: exact_match}}]
"""
    )
    url = f"{scene.proxy}/run/{RUN}/task/lm-eval/v1/chat/completions"
    command = f"""run --model local-chat-completions --apply_chat_template --tasks words --include_path . --output_path own
        --log_samples --model_args model={scene.model},base_url={url},num_concurrent=1,tokenizer_backend=none"""
    run([programs / "lm_eval", *command.split()], directory, HF_HOME=str(directory / "hub"))
    (samples,) = directory.glob("own/**/samples_*.jsonl")
    return [{} for _ in samples.read_text().splitlines()]


CLIENTS: dict[str, Callable[[Scene, Path], list[Row]]] = {
    **{name: library(name) for name in ("openai", "litellm", "langchain-openai", "inspect-ai")},
    "aiperf": aiperf,
    "lm-eval": lm_eval,
}
TABLES: list[str] = []


@pytest.mark.parametrize("client", CLIENTS)
def test_its_own_report_is_ours(client: str, scene: Scene, tmp_path: Path) -> None:
    own = CLIENTS[client](scene, tmp_path)
    ours = scene.calls(client, len(own))
    TABLES.append(table(client, own, [as_row(call) for call in ours]))
    assert len(ours) == len(own)
    assert {call["status"] for call in ours} == {"success"}
    if own[0]:
        assert sorted(tokens(row) for row in own) == sorted(tokens(as_row(call)) for call in ours)
    for name in ("ttft", "duration"):
        theirs = [row[name] for row in own if name in row]
        if theirs:
            difference = median(theirs) - median(as_row(call)[name] for call in ours)
            assert abs(difference) < max(0.25, 0.5 * median(theirs)), TABLES[-1]


@pytest.mark.parametrize("client", ["guidellm"])
def test_what_is_too_large_to_be_installed_is_skipped(client: str) -> None:
    pytest.skip((INSTALLED / f"{client}.why_not").read_text().strip())


def test_the_joules_of_the_table_are_those_of_the_proxy(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [client for client in CLIENTS if scene.events(client, "LLM_QUERY_END")]
    assert tasks, "no client was installed"
    wait_until(
        lambda: all(len(scene.events(task, "CALL_ENERGY")) == len(scene.events(task, "LLM_QUERY_END")) for task in tasks),
        seconds=15.0,
    )
    arguments = ["--run-id", RUN, "--runs-dir", str(scene.runs), "--prometheus-url", "none"]
    assert cli.main(["export", *arguments]) == 0
    with (scene.runs / RUN / "results.csv").open(newline="") as file:
        rows = {row["task_id"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == sorted(tasks)
    metrics = requests.get(scene.metrics, timeout=10).text
    pattern = re.compile(r'^joulebench_proxy_energy_joules_total\{.*task_id="([^"]+)".*\} (\S+)$', re.MULTILINE)
    proxy = {task: float(joules) for task, joules in pattern.findall(metrics)}
    lines = [f"{'task':20} {'calls':>6} {'proxy, J':>10} {'results.csv, J':>15}"]
    for task in tasks:
        joules = float(rows[task]["call_energy_joules"])
        assert int(rows[task]["llm_call_count"]) == len(scene.events(task, "LLM_QUERY_END"))
        assert joules == pytest.approx(proxy[task], rel=0.01)
        lines.append(f"{task:20} {rows[task]['llm_call_count']:>6} {proxy[task]:10.1f} {joules:15.1f}")
    total = sum(float(row["call_energy_joules"]) for row in rows.values())
    assert total == pytest.approx(sum(proxy.values()), rel=0.01)
    text = "\n\n".join([*TABLES, "\n".join([*lines, f"{'all':27} {sum(proxy.values()):10.1f} {total:15.1f}"])])
    REPORT.write_text(f"{text}\n", encoding="utf-8")
    with capsys.disabled():
        print(f"\n\n{text}\n\nwritten to {REPORT}")  # noqa: T201


def as_row(call: Mapping[str, object]) -> dict[str, float]:
    names = {"prompt_tokens": "prompt_tokens", "completion_tokens": "completion_tokens", "ttft": "ttft_seconds"}
    row = {name: call.get(field) for name, field in {**names, "duration": "duration_seconds"}.items()}
    return {name: float(str(value)) for name, value in row.items() if value is not None}


def tokens(row: Row) -> tuple[float, float]:
    return row["prompt_tokens"], row["completion_tokens"]


def table(client: str, own: Sequence[Row], ours: Sequence[Row]) -> str:
    """Counts as sums; times as medians over the requests, in milliseconds."""
    lines = [f"{client:28} {'its own':>10} {'ours':>10} {'difference':>11}", f"{'requests':28} {len(own):10} {len(ours):10}"]
    for name in ("prompt_tokens", "completion_tokens"):
        sums = [sum(row[name] for row in rows if name in row) for rows in (own, ours)]
        lines.append(f"{name.replace('_', ' '):28} {sums[0] if own[0] else '-':>10} {sums[1]:10.0f}")
    for label, value in (("TTFT, ms", ttft), ("gap between tokens, ms", gap), ("duration, ms", duration)):
        theirs, mine = ([1000 * seconds for row in rows if (seconds := value(row)) is not None] for rows in (own, ours))
        if theirs and mine:
            lines.append(f"{label:28} {median(theirs):10.1f} {median(mine):10.1f} {median(mine) - median(theirs):+11.1f}")
        else:
            lines.append(f"{label:28} {'-':>10} {format(median(mine), '10.1f') if mine else '-':>10}")
    return "\n".join(lines)


def ttft(row: Row) -> float | None:
    return row.get("ttft")


def duration(row: Row) -> float | None:
    return row.get("duration")


def gap(row: Row) -> float | None:
    """From the first token to the end, over one token fewer."""
    if "ttft" not in row or "duration" not in row or row["completion_tokens"] < 2:
        return None
    return (row["duration"] - row["ttft"]) / (row["completion_tokens"] - 1)
