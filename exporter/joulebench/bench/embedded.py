"""A real small model without a model server: SmolLM2-135M by llama.cpp, or a GGUF file, in a child process on a free port.

The first comes as a package (see ``model_package``), so nothing is downloaded when a benchmark runs. The child ends with its
parent, however the parent ends: it reads its standard input and stops when that closes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from joulebench.bench.model_package import find_model
from joulebench.errors import ProcessError, UserError
from joulebench.stack.programs import library_environment

MODEL_NAME = "smollm2-135m"
CONTEXT_TOKENS = 4096
START_SECONDS = 60.0
INSTALL = "pip install 'joulebench[demo]'"

REQUEST_SETTINGS: dict[str, object] = {"repeat_penalty": 1.0, "cache_prompt": True, "seed": 1}
"""A penalty for repetition, on by default in many servers, keeps a small model from writing a second ``{"name": ...``."""


def model_file() -> Path:
    """The model file of SmolLM2. Raises UserError where it or xllamacpp is missing."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise UserError(f"--embedded needs xllamacpp, not installed here; install with: {INSTALL}")
    model = find_model()
    if model is None:
        raise UserError("--embedded: the small model is not here; download it with: joulebench stack fetch --model")
    return model


def gguf(path: Path, option: str = "--gguf") -> Path:
    """``path`` as it is. Raises UserError, which names ``option``, where it is no GGUF file, or nothing is here to serve it."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise UserError(f"{option}: {path}: {error.strerror}") from error
    if magic != b"GGUF":
        raise UserError(f"{option}: {path} is no GGUF file; give a model file as llama.cpp reads it")
    if importlib.util.find_spec("xllamacpp") is None:
        raise UserError(f"{option} needs xllamacpp, not installed here; install with: pip install xllamacpp")
    return path


class EmbeddedModel:
    """Serves the model from ``with`` to its end. ``base_url`` is that of an OpenAI-compatible server, with ``/v1``.

    ``parallel``: requests answered at the same time, each with a context of ``context_tokens``. ``file``: served in place of
    SmolLM2, with the chat template that it holds, named after the file. Raises ProcessError if it does not come up.
    """

    def __init__(self, parallel: int = 1, file: Path | None = None, context_tokens: int = CONTEXT_TOKENS) -> None:
        self.name = MODEL_NAME if file is None else file.stem
        self._settings = {
            "model": str(model_file() if file is None else gguf(file)),
            "alias": self.name,
            "context": context_tokens * parallel,
            "parallel": parallel,
            "threads": max(1, len(os.sched_getaffinity(0)) - 1),
            "template": (Path(__file__).parent / "hermes.jinja").read_text(encoding="utf-8") if file is None else "",
        }
        self._child: subprocess.Popen[bytes] | None = None
        self.base_url = ""

    def __enter__(self) -> EmbeddedModel:
        with tempfile.TemporaryFile() as log:
            command = [sys.executable, "-m", "joulebench.bench.embedded_child", json.dumps(self._settings)]
            # A session of its own: Ctrl-C is for the benchmark, which then ends the call and the child in order.
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **library_environment("openmp")},
            )
            address = self._address()
            if address is None:
                self._stop()
                log.seek(0)
                tail = log.read()[-600:].decode("utf-8", "replace").strip()
                raise ProcessError(f"the embedded model did not come up within {START_SECONDS:g} s: {tail or 'it said nothing'}")
        self.base_url = f"{address}/v1"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def _address(self) -> str | None:
        assert self._child is not None
        assert self._child.stdout is not None
        ready, _, _ = select.select([self._child.stdout], [], [], START_SECONDS)
        return self._child.stdout.readline().decode().strip() or None if ready else None

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.close()
        child.stdout.close()
        try:
            child.wait(5.0)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
