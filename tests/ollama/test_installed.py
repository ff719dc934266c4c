"""``joulebench profile`` by the name of a model that a real Ollama has installed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest

from joulebench import cli
from joulebench.errors import UserError
from joulebench.profile.model_file import model_file
from tests.ollama.server import MODEL, OllamaServer

pytestmark = pytest.mark.ollama


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", [MODEL, f"{MODEL}:latest", f"library/{MODEL}"])
def test_its_file_is_the_one_that_it_was_made_from(server: OllamaServer, gguf: Path, name: str) -> None:
    found = model_file(name, {"OLLAMA_MODELS": str(server.models)})
    assert found.is_relative_to(server.models)
    assert sha256(found) == sha256(gguf)


def test_a_name_that_it_does_not_have_is_refused_with_those_that_it_has(server: OllamaServer) -> None:
    with pytest.raises(UserError, match=f"installed are .*{MODEL}:latest"):
        model_file("nobody-has-this", {"OLLAMA_MODELS": str(server.models)})


def test_its_layers_are_timed(server: OllamaServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama_cpp is not installed; make test-profile installs it")
    monkeypatch.setenv("OLLAMA_MODELS", str(server.models))
    small = ["--prompt-tokens", "32", "--decode-tokens", "4", "--repeat", "1", "--format", "json"]
    assert cli.main(["profile", MODEL, *small]) == 0
    assert json.loads(capsys.readouterr().out)["layers"] == 30
