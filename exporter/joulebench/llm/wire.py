"""HTTP to an LLM server: one POST, its JSON or its lines; every failure is a ModelError with the reason.

Lines are handed on as their bytes arrive, so that the time of a token is its time. A deadline holds for the whole answer, also
for one that trickles: when it is over the connection is shut down.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

import requests
import urllib3

from joulebench.clock import Clock
from joulebench.errors import ModelError
from joulebench.llm.chat import CallTimeout, ContextFull, Json, ModelRefused, ModelUnreachable
from joulebench.units import Seconds

CONNECT_TIMEOUT = 5.0
_NO_ROOM = re.compile(r"\bcontext (?:size|length|window)|exceed_context", re.IGNORECASE)
"""How llama.cpp, vLLM, SGLang and Ollama put it."""
MAX_LINE_BYTES = 16 * 1024 * 1024


class Wire:
    """POSTs to one server. Each request has its own connection: safe in threads, and no idle connection can be stale."""

    def __init__(self, base_url: str, clock: Clock, api_key: str | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        self._clock = clock
        self._headers = {"Accept-Encoding": "identity"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        # A proxy of the environment is for the outside; it cannot reach this machine's loopback.
        self._trust_env = urlsplit(base_url).hostname not in ("127.0.0.1", "localhost", "::1")

    def reach(self, path: str) -> None:
        """Raises ModelUnreachable unless something speaks HTTP there, whatever it says."""
        with self._session() as session:
            try:
                session.get(self.base_url + path, headers=self._headers, timeout=CONNECT_TIMEOUT, stream=True).close()
            except requests.RequestException as error:
                raise ModelUnreachable(f"no model server answers at {self.base_url}: {error}") from error

    def post(self, path: str, body: Json, deadline: Seconds) -> Json:
        """The JSON object of an answer that comes at once."""
        with self._open(path, body, deadline) as response:
            text = b"".join(self._chunks(response, deadline))
            return _object(text)

    def lines(self, path: str, body: Json, deadline: Seconds) -> Iterator[bytes]:
        """The lines of a streamed answer that are not empty, each as soon as it is complete."""
        with self._open(path, body, deadline) as response:
            pending = b""
            for chunk in self._chunks(response, deadline):
                *whole, pending = (pending + chunk).split(b"\n")
                if len(pending) > MAX_LINE_BYTES:
                    raise ModelError(f"a line of more than {MAX_LINE_BYTES} bytes was streamed")
                yield from (line.strip() for line in whole if line.strip())
            if pending.strip():
                yield pending.strip()

    def _session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = self._trust_env
        # Without an auth of its own, requests would put one from ~/.netrc in place of the API key.
        session.auth = lambda request: request
        return session

    @contextmanager
    def _open(self, path: str, body: Json, deadline: Seconds) -> Iterator[requests.Response]:
        url = self.base_url + path
        remaining = deadline - self._clock.monotonic()
        if remaining <= 0:
            raise CallTimeout("no time was left for the call")
        with self._session() as session:
            try:
                response = session.post(
                    url, json=body, headers=self._headers, stream=True, timeout=(min(CONNECT_TIMEOUT, remaining), remaining)
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
                if response.status_code >= 400:
                    told = _error_message(b"".join(self._chunks(response, deadline)))
                    raise ContextFull(told) if _NO_ROOM.search(told) else ModelRefused(response.status_code, told)
                yield response

    def _chunks(self, response: requests.Response, deadline: Seconds) -> Iterator[bytes]:
        """Bytes as they arrive."""
        raw: urllib3.HTTPResponse = response.raw
        over = threading.Event()

        def give_up() -> None:
            over.set()
            try:
                raw.shutdown()
            except (ValueError, RuntimeError, OSError):
                return  # the answer is already at its end

        watchdog = threading.Timer(max(0.0, deadline - self._clock.monotonic()), give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            while chunk := raw.read1(65536):
                yield chunk
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if over.is_set() or isinstance(error, urllib3.exceptions.ReadTimeoutError | TimeoutError):
                raise CallTimeout("the reply was not complete in time") from error
            raise ModelError(f"the reply broke off: {error}") from error
        finally:
            watchdog.cancel()
        if over.is_set():
            raise CallTimeout("the reply was not complete in time")


def json_line(line: bytes) -> Json:
    return _object(line)


def server_error(answer: Mapping[str, object]) -> str | None:
    """The message of an ``error`` member, in each of the shapes that servers use, or None."""
    error = answer.get("error")
    if error is None or error == "":
        return None
    if isinstance(error, dict):
        return str(error.get("message") or error)
    return str(error)


def _object(text: bytes) -> Json:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ModelError(f"the server sent what is not JSON: {text[:120]!r}") from error
    if not isinstance(found, dict):
        raise ModelError(f"the server sent JSON that is not an object: {text[:120]!r}")
    return found


def _error_message(text: bytes) -> str:
    try:
        found = json.loads(text)
    except ValueError:
        return text[:300].decode("utf-8", "replace") or "no message"
    message = server_error(found) if isinstance(found, dict) else None
    return message if message is not None else str(found)[:300]


def _connection_error(url: str, error: requests.ConnectionError) -> ModelError:
    cause = error.args[0] if error.args else error
    if isinstance(cause, urllib3.exceptions.MaxRetryError):
        return ModelUnreachable(f"{url} cannot be reached: {cause.reason}")
    return ModelError(f"{url} closed the connection before it answered: {cause}")
