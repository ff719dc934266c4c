"""A conversation that does not fit the context: Ollama would leave its beginning out, and what is left would be graded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from joulebench import cli
from tests.ollama.server import MODEL, OllamaServer

pytestmark = pytest.mark.ollama

NOWHERE = "http://127.0.0.1:9"


def test_what_does_not_fit_is_an_error_and_no_failure(ollama: OllamaServer, tmp_path: Path) -> None:
    places = ["--run-id", "r", "--runs-dir", str(tmp_path), "--no-warm-up", "--idle-seconds", "0", "--no-progress"]
    nowhere = ["--gateway-url", NOWHERE, "--prometheus-url", NOWHERE, "--exporter-url", NOWHERE]
    asked = ["bench", "--ollama-url", ollama.url, "--model", MODEL, "--context", "256", "--tasks", "write-hello"]
    assert cli.main([*asked, *places, *nowhere]) == 0
    lines = [json.loads(line) for file in (tmp_path / "r").glob("journal-*.jsonl") for line in file.read_text().splitlines()]
    (end,) = [line for line in lines if line["event_type"] == "TASK_END"]
    assert (end["status"], end["success"]) == ("error", None)
    assert "context length" in end["reason"]
