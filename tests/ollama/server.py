"""A real Ollama as a process of the tests' own: its own port, home and models; only what was started here is ever stopped."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from joulebench.clock import wait_until
from joulebench.stack.process import Program, free_port

ROOT = Path(__file__).parents[2]
BINARY = ROOT / ".build" / "ollama" / "ollama"
TEMPLATE = Path(__file__).parent / "hermes.gotmpl"

MODEL = "smollm2-tools"
CONTEXT = 4096
PARAMETERS = {
    # The default of 1.1 keeps a small model from writing a second {"name": ..., and it stops to call tools.
    "repeat_penalty": "1.0",
    "temperature": "0",
    "seed": "1",
    "num_ctx": str(CONTEXT),
    # Two threads wait for one another in a busy loop, and on a machine with other work that wait is nearly all of the time.
    "num_thread": "1",
    "stop": '"<|im_end|>"',
}


@dataclass
class OllamaServer:
    """``directory`` holds everything the server writes. It may be started again after ``stop`` or ``kill``, on the same port."""

    directory: Path
    port: int = field(default_factory=free_port)
    _program: Program | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def models(self) -> Path:
        return self.directory / "models"

    @property
    def log(self) -> Path:
        return self.directory / "ollama.log"

    @property
    def environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA_")}
        return ours | {"OLLAMA_HOST": f"127.0.0.1:{self.port}", "OLLAMA_MODELS": str(self.models), "HOME": str(self.directory)}

    def start(self) -> None:
        self._program = Program(
            "ollama", [str(BINARY), "serve"], self.log, f"{self.url}/api/version", {**self.environment, "OLLAMA_DEBUG": "1"}
        ).start()

    def stop(self) -> None:
        if self._program is not None:
            self._program.stop()

    def kill(self) -> None:
        """With SIGKILL, as a crash would, the process that runs the model too."""
        assert self._program is not None
        self._program.kill()

    def create(self, name: str, gguf: Path) -> None:
        """The model under that name, with a template of tools and what else makes a small one call them."""
        lines = [f"FROM {gguf}", f'TEMPLATE """{TEMPLATE.read_text(encoding="utf-8").removesuffix(chr(10))}\n"""']
        lines += [
            f'PARAMETER {key} "{value}"' if key == "stop" else f"PARAMETER {key} {value}" for key, value in PARAMETERS.items()
        ]
        file = self.directory / f"{name}.Modelfile"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        made = subprocess.run(
            [str(BINARY), "create", name, "-f", str(file)],
            env=self.environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert made.returncode == 0, made.stderr

    def ask(self, path: str, body: object = None) -> Any:
        """What it answers to a POST of ``body``, or to a GET; as JSON."""
        answer = requests.request("GET" if body is None else "POST", self.url + path, json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def copy(self, source: str, name: str) -> None:
        answer = requests.post(f"{self.url}/api/copy", json={"source": source, "destination": name}, timeout=60)
        assert answer.status_code == 200, answer.text

    def load(self, model: str = MODEL, keep_alive: object = "10m") -> None:
        self.ask("/api/generate", {"model": model, "keep_alive": keep_alive, "stream": False})

    def unload(self, model: str = MODEL) -> None:
        """Returns once it is out of memory, which is a moment after Ollama has answered."""
        self.load(model, 0)
        assert self.await_loaded([])

    def await_loaded(self, names: list[str]) -> bool:
        return wait_until(lambda: self.loaded() == names, 60.0)

    def loaded(self) -> list[str]:
        return [model["name"] for model in self.ask("/api/ps")["models"]]

    def said(self, pattern: str) -> list[str]:
        """First groups of the pattern in its log."""
        return re.findall(pattern, self.log.read_text(encoding="utf-8", errors="replace"))
