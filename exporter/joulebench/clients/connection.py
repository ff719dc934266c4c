"""The HTTP client of Prometheus, Pushgateway and exporter: a response is read whole, within a limit of size and of time.

Nothing of ``requests`` is loaded before the first request: a benchmark sends its requests in the background, and its task need
not wait for 0.1 s of imports (``python -m tests.benchmarks --only launcher``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from joulebench.clock import Clock, SystemClock
from joulebench.errors import UserError
from joulebench.metrics.label_text import label_text
from joulebench.parsing import load_json
from joulebench.settings import ConnectionSettings, Url, mask_credentials
from joulebench.supervise import import_in_background

if TYPE_CHECKING:
    import requests
    import urllib3

    from joulebench.clients.session import PatientRetry

MAX_RESPONSE_BYTES = 1 << 30
MAX_RESPONSE_SECONDS = 120.0
"""Time for the body of a response; a server that sends a byte a second would otherwise never be given up."""
MAX_SHOWN_CHARACTERS = 500

_PIECE_BYTES = 1 << 18


def shown(text: str) -> str:
    """Text of a server as it may stand in an error or on a terminal: printable, short and without credentials."""
    return label_text(mask_credentials(text), MAX_SHOWN_CHARACTERS)


class RequestFailed(Exception):
    """No complete response came; the message says why and holds no credentials."""


class ResponseBroken(RequestFailed):
    """The response began and did not come whole."""


@dataclass(frozen=True, slots=True)
class Response:
    """A response that was read whole."""

    status: int
    body: bytes

    def json(self) -> Any:
        """Raises ValueError for a body that is no JSON."""
        return load_json(self.body)

    @property
    def shown_text(self) -> str:
        """The first characters of the body, for an error message; without control characters, which could change a terminal."""
        return shown(self.body[: 4 * MAX_SHOWN_CHARACTERS].decode("utf-8", "replace"))


class HttpClient:
    """Requests to one server over a kept connection. For one thread: a ``requests.Session`` is not safe in two.

    ``timeout``: seconds to connect, and between two pieces of a response. ``retries``: makes the retries of the session, which is
    opened with the first request.
    """

    def __init__(
        self,
        url: Url,
        timeout: float,
        *,
        settings: ConnectionSettings | None = None,
        retries: Callable[[], PatientRetry] | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = MAX_RESPONSE_BYTES,
        max_seconds: float = MAX_RESPONSE_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        self.url = url
        self._settings = settings if settings is not None and settings.applies_to(url) else ConnectionSettings()
        self._timeout = self._settings.timeout_seconds or timeout
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._clock = clock or SystemClock()
        self._retries = retries
        self._headers = dict(headers or {})
        self._session: requests.Session | None = None

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        extra_seconds: float = 0.0,
        allow_redirects: bool = False,
    ) -> Response:
        """Sends one request and reads the response. ``extra_seconds`` are added to the timeout. Raises RequestFailed."""
        sessions = import_in_background("joulebench.clients.session")
        import requests
        import urllib3

        try:
            if self._session is None:
                self._session = self._open_session()
            with self._session.request(
                method,
                self.url.base + path,
                params=dict(params) if params else None,
                data=body,
                headers=dict(headers) if headers else None,
                timeout=self._timeout + extra_seconds,
                allow_redirects=allow_redirects,
                stream=True,
            ) as response:
                try:
                    return Response(response.status_code, self._read(response))
                except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                    raise ResponseBroken(sessions.describe_failure(error)) from None
        except UserError as error:
            # A file of a secret that has gone since the start.
            raise RequestFailed(str(error)) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise RequestFailed(sessions.describe_failure(error) + self._handshake_hint(error)) from None

    def refusal_hint(self, status: int, text: str) -> str:
        """What to do about a response that refuses the client; empty for other responses."""
        return _refusal_hint(self._settings, self.url, status, text)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def _open_session(self) -> requests.Session:
        from joulebench.clients.session import open_session

        retries = None if self._retries is None else self._retries()
        session = open_session(self.url, self._settings, retries=retries)
        session.headers.update(self._headers)
        return session

    def _handshake_hint(self, error: BaseException) -> str:
        """A server that refuses a client's certificate may close the connection before its reason is read."""
        text = str(error).lower()
        if not self.url.base.startswith("https:") or not any(words in text for words in _CLOSED_IN_HANDSHAKE):
            return ""
        if self._settings.client_cert_file is None:
            return "; if it wants a certificate of the client, give client_cert_file and client_key_file"
        return "; it may not accept the client's certificate"

    def _read(self, response: requests.Response) -> bytes:
        raw: urllib3.HTTPResponse = response.raw
        give_up_at = self._clock.monotonic() + self._max_seconds
        pieces: list[bytes] = []
        size = 0
        # Piece by piece as it comes: a single read would wait for all of what a slow server sends.
        while piece := raw.read1(_PIECE_BYTES, decode_content=True):
            pieces.append(piece)
            size += len(piece)
            if size > self._max_bytes:
                raise RequestFailed(f"a response of more than {self._max_bytes} bytes")
            if self._clock.monotonic() > give_up_at:
                raise RequestFailed(f"a response that was not complete after {self._max_seconds:g} s")
        expected = response.headers.get("Content-Length", "")
        if expected.isdecimal() and "Content-Encoding" not in response.headers and size < int(expected):
            raise ResponseBroken(f"a response that broke off after {size} of {expected} bytes")
        return b"".join(pieces)


_CLOSED_IN_HANDSHAKE = ("eof occurred", "reset by peer", "handshake failure", "broken pipe", "without response")


def _refusal_hint(settings: ConnectionSettings, url: Url, status: int, text: str) -> str:
    if "no org id" in text.lower():
        return "; it wants a tenant: give it as tenant"
    if status == 400 and "http request to an https server" in text.lower():
        return "; it speaks TLS: give its URL with https://"
    if status not in (401, 403):
        return ""
    if settings.has_bearer_token:
        source = f"in {settings.bearer_token_file}" if settings.bearer_token_file else "given"
        return f"; it does not accept the bearer token {source}"
    if settings.has_basic_auth or url.has_credentials:
        return "; it does not accept the username and password given"
    return "; it wants credentials: give basic_auth or bearer_token_file in --connections.file, or by environment"
