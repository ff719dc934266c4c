"""HTTP to a model server: one POST and the bytes of its response as they arrive. Every failure is a ModelError with its reason.

A deadline holds for the whole response, also for one that trickles: when it is over the connection is shut down.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import requests
import urllib3

from joulebench.clients.session import open_session
from joulebench.clock import Clock
from joulebench.errors import ModelError, UserError
from joulebench.llm.chat import CallTimeout, ContextFull, Json, ModelRefused, ModelUnreachable, ReplyBroken
from joulebench.llm.events import parse_object
from joulebench.llm.readers import server_error
from joulebench.parsing import as_dict, as_list, as_text
from joulebench.settings import Url
from joulebench.units import Seconds

CONNECT_TIMEOUT = 5.0
MAX_ERROR_BYTES = 1024 * 1024
_CONTEXT_EXCEEDED = re.compile(r"\bcontext (?:size|length|window)|exceed_context", re.IGNORECASE)
"""Wording of llama.cpp, vLLM, SGLang and Ollama."""


MAX_MODEL_LIST = 1 << 20
_USUAL_SERVERS = {"vLLM": 8000, "llama.cpp": 8080, "SGLang": 30000, "LM Studio": 1234, "Ollama": 11434}
"""Default ports of OpenAI-compatible servers."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """``chunks``: the body as it arrives."""

    content_type: str
    coding: str
    chunks: Iterator[bytes]


class ModelServerHttp:
    """POSTs to one server. Each request has its own connection: safe in threads, and no idle connection can be stale."""

    def __init__(self, base_url: str, clock: Clock, api_key: str | None = None) -> None:
        self._url = Url.parse(base_url, "--base-url")
        self.base_url = str(self._url)
        """The address as it may be shown, without credentials."""
        self._clock = clock
        self._headers = {"Accept-Encoding": "identity"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def model_names(self) -> list[str]:
        """Names of the models that an OpenAI-compatible server lists; empty where it lists none.

        Raises ModelUnreachable where nothing answers HTTP, and UserError where the API of the server is below ``/v1`` only.
        """
        with self._session() as session:
            try:
                names = self._listed_models(session, self._url.base)
                is_above = names is None and not self._url.base.endswith("/v1")
                if is_above and self._listed_models(session, f"{self._url.base}/v1") is not None:
                    raise UserError(f"--base-url: {self.base_url} has no /models; give {self.base_url}/v1")
            except requests.RequestException as error:
                raise ModelUnreachable(f"no model server answers at {self.base_url}: {error}; {_suggested_address()}") from error
        return names or []

    def _listed_models(self, session: requests.Session, base: str) -> list[str] | None:
        """Returns None where there is no list of models."""
        with session.get(f"{base}/models", headers=self._headers, timeout=CONNECT_TIMEOUT, stream=True) as answer:
            if answer.status_code != 200:
                return None
            body = answer.raw.read(MAX_MODEL_LIST, decode_content=True)
        try:
            listed = as_list(as_dict(json.loads(body)).get("data"))
        except (ValueError, RecursionError):
            return None
        return [name for model in listed if (name := as_text(as_dict(model).get("id")))]

    @contextmanager
    def post(self, path: str, body: Json, deadline: Seconds) -> Iterator[HttpReply]:
        """Sends ``body``. Raises ModelRefused for an HTTP error and ContextFull where the conversation is too long."""
        url = self.base_url + path
        remaining = deadline - self._clock.monotonic()
        if remaining <= 0:
            raise CallTimeout("no time was left for the call")
        with self._session() as session:
            try:
                response = session.post(
                    self._url.base + path,
                    json=body,
                    headers=self._headers,
                    stream=True,
                    timeout=(min(CONNECT_TIMEOUT, remaining), remaining),
                )
            except requests.ConnectTimeout as error:
                raise ModelUnreachable(f"{url} does not answer") from error
            except requests.Timeout as error:
                raise CallTimeout(f"no answer within {remaining:.1f} s") from error
            except requests.ConnectionError as error:
                raise _connection_error(url, error) from error
            except requests.RequestException as error:
                raise ModelError(f"{url}: {error}") from error
            with response:
                chunks = self._chunks(response, deadline)
                if response.status_code >= 400:
                    message = _error_message(_read_up_to(chunks, MAX_ERROR_BYTES))
                    if _CONTEXT_EXCEEDED.search(message):
                        raise ContextFull(message)
                    raise ModelRefused(response.status_code, message)
                yield HttpReply(response.headers.get("Content-Type", ""), response.headers.get("Content-Encoding", ""), chunks)

    def _session(self) -> requests.Session:
        session = open_session(self._url)
        if "Authorization" in self._headers:
            # Credentials of the URL or of ~/.netrc would take the place of the API key.
            session.auth = lambda request: request
        return session

    def _chunks(self, response: requests.Response, deadline: Seconds) -> Iterator[bytes]:
        """Yields bytes as they arrive."""
        raw: urllib3.HTTPResponse = response.raw
        over = threading.Event()

        def give_up() -> None:
            over.set()
            try:
                raw.shutdown()
            except (ValueError, RuntimeError, OSError):
                return  # the response is already at its end

        watchdog = threading.Timer(max(0.0, deadline - self._clock.monotonic()), give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            while chunk := raw.read1(65536):
                yield chunk
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if over.is_set() or isinstance(error, urllib3.exceptions.ReadTimeoutError | TimeoutError):
                raise CallTimeout("the reply was not complete in time") from error
            raise ReplyBroken(f"the reply broke off: {error}") from error
        finally:
            watchdog.cancel()
        if over.is_set():
            raise CallTimeout("the reply was not complete in time")


def _read_up_to(chunks: Iterator[bytes], limit: int) -> bytes:
    data = b""
    for chunk in chunks:
        data += chunk
        if len(data) > limit:
            break
    return data


def _error_message(body: bytes) -> str:
    value = parse_object(body)
    message = None if value is None else server_error(value)
    return message or body[:300].decode("utf-8", "replace") or "no message"


def _connection_error(url: str, error: requests.ConnectionError) -> ModelError:
    cause = error.args[0] if error.args else error
    if isinstance(cause, urllib3.exceptions.MaxRetryError):
        return ModelUnreachable(f"{url} cannot be reached: {cause.reason}")
    return ReplyBroken(f"{url} closed the connection before it answered: {cause}")


def _suggested_address() -> str:
    """What to give as the address of a model server: what listens on this machine at a usual port, else an example."""
    for name, port in _USUAL_SERVERS.items():
        with socket.socket() as probe:
            probe.settimeout(0.2)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return f"something listens where {name} usually does: --base-url http://127.0.0.1:{port}/v1"
    return "start one, and give its address with /v1, such as --base-url http://127.0.0.1:8000/v1 (vLLM)"
