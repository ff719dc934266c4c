"""The server of the whole tier, started once; its model is in memory unless a test says otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from joulebench.bench.embedded import model_file
from tests.ollama.server import BINARY, MODEL, OllamaServer
from tests.ollama.tap import Tap


@pytest.fixture(scope="session")
def gguf(request: pytest.FixtureRequest) -> Path:
    """The model file; what the whole tier needs is there."""
    if not BINARY.exists():
        # Written by the build where this machine lacks what it takes.
        why = BINARY.with_name("why_not")
        missing = f"no Ollama ({why.read_text(encoding='utf-8').strip() if why.exists() else 'make ollama builds it'})"
        # Only who asks for this tier promises to have built what can be built.
        if not why.exists() and os.environ.get("CI") == "true" and request.config.option.markexpr == "ollama":
            pytest.fail(missing)
        pytest.skip(missing)
    return model_file()


@pytest.fixture(scope="session")
def server(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OllamaServer]:
    """Its model is loaded and has answered once: with the whole prompt of the questions in its cache, answers are steady."""
    running = OllamaServer(tmp_path_factory.mktemp("ollama"))
    running.start()
    try:
        running.create(MODEL, gguf)
        yield running
    finally:
        running.stop()


@pytest.fixture
def ollama(server: OllamaServer) -> OllamaServer:
    server.load()
    return server


@pytest.fixture
def tap(ollama: OllamaServer) -> Iterator[Tap]:
    with Tap(ollama.url) as running:
        yield running
