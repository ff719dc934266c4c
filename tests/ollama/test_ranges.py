"""Ranges on several models of a real Ollama: each is loaded before its tasks and out of memory after them."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from joulebench.ollama.inventory import OllamaApi
from joulebench.ollama.models import OllamaModels
from tests.ollama.questions import WORDS, chat
from tests.ollama.server import MODEL, ROOT, OllamaServer
from tests.ollama.tap import Tap

PATIENCE = 600
"""Seconds for what takes one: each run has a prompt of over a thousand tokens, for one core that may have other work."""

pytestmark = [pytest.mark.ollama, pytest.mark.timeout(PATIENCE)]

OTHER = "smollm2-other:tiny"
NOWHERE = "http://127.0.0.1:9"


def test_each_model_is_loaded_for_its_run_and_unloaded_after_it(server: OllamaServer, tmp_path: Path) -> None:
    server.load()
    server.unload()
    server.copy(MODEL, OTHER)
    with Tap(server.url) as tap:
        nowhere = ["--gateway-url", NOWHERE, "--exporter-url", "none", "--prometheus-url", "none"]
        argv = [str(ROOT / "scripts/run_multi_model_benchmark.sh"), "files", "tag", "2", "2", "--ollama-url", tap.url]
        argv += ["--runs-dir", str(tmp_path), "--monitor", "none", "--task-timeout", "250", *nowhere]
        environment = {"MODELS": f"{MODEL} {OTHER}", "JOULEBENCH": str(Path(sys.executable).parent / "joulebench")}
        done = subprocess.run(
            [*argv, "--bench", "--idle-seconds 0 --no-warm-up --max-tokens 60"],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE - 20,
            env={**os.environ, **environment},
        )
    assert done.returncode == 0, done.stderr
    assert server.await_loaded([])
    asked = [(one.asked["model"], one.asked.get("keep_alive", "chat")) for one in tap.of("/api/generate", "/api/chat")]
    of_model = {name: [wish for model, wish in asked if model == name] for name in (MODEL, OTHER)}
    assert [model for model, _ in asked] == sorted((model for model, _ in asked), reverse=True)
    for name, wishes in of_model.items():
        assert (wishes[0], wishes[-1]) == (-1, 0), name
        assert set(wishes[1:-1]) == {"chat"}
    for run_id, name in (("tag-smollm2-tools", MODEL), ("tag-smollm2-other-tiny", OTHER)):
        with (tmp_path / run_id / "files_metrics.csv").open(newline="") as file:
            (row,) = csv.DictReader(file)
        assert row["status"] in ("success", "failure"), (name, row)


def test_a_model_that_is_kept_stays_until_it_is_unloaded(server: OllamaServer) -> None:
    """A request in between, which says nothing of how long, does not shorten it."""
    api, models = OllamaApi(server.url), OllamaModels(server.url)
    try:
        models.load(MODEL, 60.0)
        server.ask("/api/chat", chat(WORDS, tools=False, tokens=4))
        (model,) = api.inventory().loaded or ()
        assert model.name == f"{MODEL}:latest"
        assert model.expires_at is not None
        models.unload(MODEL)
        assert server.await_loaded([])
        assert api.inventory().loaded == ()
    finally:
        api.close()
        models.close()


def test_a_model_that_nobody_has_is_told_the_next_one_runs_and_one_that_was_loaded_before_is_left_loaded(
    ollama: OllamaServer, tmp_path: Path
) -> None:
    argv = [sys.executable, "-m", "joulebench.cli", "range", "files", "2", "2", "--model", "nobody-has-this", "--model", MODEL]
    argv += ["--ollama-url", ollama.url, "--runs-dir", str(tmp_path), "--monitor", "none", "--gateway-url", NOWHERE]
    argv += [
        "--task-timeout",
        "120",
        "--exporter-url",
        "none",
        "--prometheus-url",
        "none",
        "--bench",
        "--idle-seconds 0 --no-warm-up --max-tokens 60",
    ]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=PATIENCE - 20)
    assert done.returncode == 1
    assert "nobody-has-this cannot be loaded" in done.stderr
    assert (tmp_path / "files-smollm2-tools" / "results.csv").exists()
    assert ollama.loaded() == [f"{MODEL}:latest"]
