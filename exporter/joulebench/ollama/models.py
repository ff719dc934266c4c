"""Loading and unloading a model of an Ollama server (``POST /api/generate`` without a prompt); nothing is pulled or deleted."""

from __future__ import annotations

import requests

from joulebench.clients.session import describe_failure, open_session
from joulebench.errors import OllamaError
from joulebench.settings import Url

FOR_EVER, NOW = -1, 0
UNLOAD_TIMEOUT_SECONDS = 10.0


class OllamaModels:
    """For one thread."""

    def __init__(self, url: str) -> None:
        self.url = Url.parse(url, "--ollama-url")
        self._session = open_session(self.url)

    def load(self, model: str, timeout: float) -> None:
        """Returns once the model is in memory, where it stays. ``timeout`` in seconds. Raises OllamaError."""
        self._keep(model, FOR_EVER, timeout)

    def unload(self, model: str) -> None:
        """Raises OllamaError."""
        self._keep(model, NOW, UNLOAD_TIMEOUT_SECONDS)

    def close(self) -> None:
        self._session.close()

    def _keep(self, model: str, keep_alive: int, timeout: float) -> None:
        body = {"model": model, "keep_alive": keep_alive, "stream": False}
        try:
            answer = self._session.post(f"{self.url.base}/api/generate", json=body, timeout=timeout)
        except requests.RequestException as error:
            raise OllamaError(f"{self.url}: {describe_failure(error)}") from error
        if answer.status_code != 200:
            raise OllamaError(f"{self.url}/api/generate: HTTP {answer.status_code} {answer.text.strip()[:300]}")
