"""The one connection setup of all HTTP clients: proxies, certificates, credentials, timeouts, limits and retries.

From the environment come proxies (``HTTP_PROXY``, ``HTTPS_PROXY``, ``NO_PROXY``), CA bundles (``REQUESTS_CA_BUNDLE``,
``CURL_CA_BUNDLE``, ``SSL_CERT_FILE``, ``SSL_CERT_DIR``) and credentials (``.netrc``). Only the proxy is left out for an address
of this machine, which a proxy could not reach. Credentials in a URL are sent as basic authentication and never stand in an
error. A response is read whole, within a limit of size and of time.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_environ_proxies, get_netrc_auth
from urllib3.util.retry import Retry

from joulebench.clock import Clock, SystemClock
from joulebench.errors import UserError
from joulebench.metrics.label_text import label_text
from joulebench.settings import ConnectionSettings, Url, mask_credentials, read_secret_file

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
MAX_RESPONSE_BYTES = 1 << 30
MAX_RESPONSE_SECONDS = 120.0
"""Time for the body of a response; a server that sends a byte a second would otherwise never be given up."""
MAX_SHOWN_CHARACTERS = 500

_PIECE_BYTES = 1 << 18
_FIRST_PAUSE_SECONDS = 0.1
_MAX_PAUSE_SECONDS = 2.0
_STARTING_UP = (502, 503, 504)


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
        try:
            return json.loads(self.body)
        except RecursionError as error:
            raise ValueError("JSON that is nested too deep") from error

    @property
    def shown_text(self) -> str:
        """The first characters of the body, for an error message; without control characters, which could change a terminal."""
        return shown(self.body[: 4 * MAX_SHOWN_CHARACTERS].decode("utf-8", "replace"))


class PatientRetry(Retry):
    """Repeats what cannot be connected, or answers 502 to 504, for ``patience`` seconds after the first failure.

    The pauses double from 0.1 s to 2 s; ``clock`` and ``wait`` are the caller's.
    """

    def __init__(
        self,
        *args: Any,
        patience: float = 0.0,
        clock: Clock | None = None,
        wait: Callable[[float], object] | None = None,
        give_up_at: float | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("status_forcelist", _STARTING_UP)
        kwargs.setdefault("raise_on_status", False)
        kwargs.setdefault("respect_retry_after_header", False)
        super().__init__(*args, **kwargs)
        self._patience = patience
        self._clock = clock or SystemClock()
        self._wait = wait or threading.Event().wait
        self._give_up_at = give_up_at

    def new(self, **kwargs: Any) -> PatientRetry:
        ours = {"patience": self._patience, "clock": self._clock, "wait": self._wait, "give_up_at": self._give_up_at}
        return super().new(**{**ours, **kwargs})

    def increment(self, *args: Any, **kwargs: Any) -> PatientRetry:
        """Raises MaxRetryError when the next pause would end after the patience."""
        now = self._clock.monotonic()
        if self._give_up_at is None:
            self._give_up_at = now + self._patience
        error, response = kwargs.get("error"), kwargs.get("response")
        following = super().increment(*args, **kwargs)
        # A certificate that is refused now is refused later, too.
        is_final = isinstance(error, urllib3.exceptions.SSLError)
        if is_final or now + following.get_backoff_time() > self._give_up_at:
            pool: Any = kwargs.get("_pool")
            url = args[1] if len(args) > 1 else kwargs.get("url", "")
            raise urllib3.exceptions.MaxRetryError(
                pool, url, error or urllib3.exceptions.ResponseError(f"HTTP {getattr(response, 'status', '?')}")
            )
        return following

    def get_backoff_time(self) -> float:
        return min(_MAX_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** max(0, len(self.history) - 1))

    def sleep(self, response: object = None) -> None:  # noqa: ARG002
        self._wait(self.get_backoff_time())


class HttpClient:
    """Requests to one server over a kept connection. For one thread: a ``requests.Session`` is not safe in two.

    ``timeout``: seconds to connect, and between two pieces of a response.
    """

    def __init__(
        self,
        url: Url,
        timeout: float,
        *,
        settings: ConnectionSettings | None = None,
        retries: PatientRetry | None = None,
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
        self._session = open_session(url, self._settings, retries=retries)
        self._session.headers.update(headers or {})

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
        try:
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
                    raise ResponseBroken(describe_failure(error)) from None
        except UserError as error:
            # A file of a secret that has gone since the start.
            raise RequestFailed(str(error)) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise RequestFailed(describe_failure(error) + self._handshake_hint(error)) from None

    def refusal_hint(self, status: int, text: str) -> str:
        """What to do about a response that refuses the client; empty for other responses."""
        return _refusal_hint(self._settings, self.url, status, text)

    def close(self) -> None:
        self._session.close()

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


class _BasicAuth(AuthBase):
    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        settings = self._settings
        password = settings.password
        if settings.password_file is not None:
            password = read_secret_file(settings.password_file, "password_file")
        HTTPBasicAuth(settings.username.encode(), password.encode())(request)
        return request


class _BearerAuth(AuthBase):
    """Reads the token's file for each request: tokens of Kubernetes and others are renewed while a program runs."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        token = self._settings.bearer_token
        if self._settings.bearer_token_file is not None:
            token = read_secret_file(self._settings.bearer_token_file, "bearer_token_file")
        request.headers["Authorization"] = f"Bearer {token}"
        return request


def open_session(url: Url, settings: ConnectionSettings | None = None, *, retries: Retry | None = None) -> requests.Session:
    """A session for ``url`` with ``settings`` and everything that the environment says; for one thread."""
    settings = settings or ConnectionSettings()
    session = requests.Session()
    # What the environment says is settled here, once, and not at each request.
    session.trust_env = False
    if not url.is_loopback:
        session.proxies = dict(get_environ_proxies(url.base))
    session.verify = str(settings.ca_file) if settings.ca_file is not None else ca_bundle() or True
    if settings.client_cert_file is not None:
        key = settings.client_key_file or settings.client_cert_file
        session.cert = (str(settings.client_cert_file), str(key))
    if settings.tenant:
        session.headers[settings.tenant_header] = settings.tenant
    if settings.has_bearer_token:
        session.auth = _BearerAuth(settings)
    elif settings.has_basic_auth:
        session.auth = _BasicAuth(settings)
    elif url.has_credentials:
        session.auth = HTTPBasicAuth(url.username.encode(), url.password.encode())
    else:
        session.auth = get_netrc_auth(url.base)
    adapter = HTTPAdapter(max_retries=retries or Retry(0, read=False))
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def ca_bundle() -> str | None:
    """File or directory of trusted certificates that the environment names; None for those of the machine."""
    return next((path for name in CA_VARIABLES if (path := os.environ.get(name))), None)


def environment_proxy(url: Url) -> str | None:
    """The proxy of the environment for ``url``; None for an address of this machine and for hosts that NO_PROXY leaves out."""
    if url.is_loopback:
        return None
    proxies = get_environ_proxies(url.base)
    return proxies.get(url.base.partition(":")[0]) or proxies.get("all")


def describe_failure(error: BaseException) -> str:
    """The innermost reason of a failed request in words, without the layers of the connection pool and without credentials."""
    cause: BaseException = error
    while (inner := getattr(cause, "reason", None) or cause.__cause__ or cause.__context__) and isinstance(inner, BaseException):
        cause = inner
    message = f"{type(error).__name__}: {str(cause) or type(cause).__name__}"
    return shown(message + _failure_hint(error, cause))


_CLOSED_IN_HANDSHAKE = ("eof occurred", "reset by peer", "handshake failure", "broken pipe", "without response")

_TLS_HINTS = (
    ("hostname mismatch", "its certificate is for another name: give the URL with the name in the certificate"),
    ("certificate is not valid for", "its certificate is for another name: give the URL with the name in the certificate"),
    ("certificate has expired", "renew the certificate of the server"),
    ("self-signed", "its certificate is signed by an unknown authority: give the authority's file as ca_file"),
    ("unable to get local issuer", "its certificate is signed by an unknown authority: give the authority's file as ca_file"),
    ("invalid ca certificate", "its certificate is signed by something that is no authority: give the right ca_file"),
    ("certificate required", "it wants a certificate of the client: give client_cert_file and client_key_file"),
    ("unknown ca", "it does not trust the client's certificate: give one that its authority has signed"),
    ("bad certificate", "it does not accept the client's certificate: give one that its authority has signed"),
    ("key values mismatch", "client_key_file is not the key of client_cert_file"),
    ("key_values_mismatch", "client_key_file is not the key of client_cert_file"),
    ("wrong version number", "it speaks plain HTTP: give its URL with http://"),
    ("record layer failure", "it speaks plain HTTP: give its URL with http://"),
    ("no start line", "a file of a certificate or key is not in PEM format"),
    ("pem lib", "a file of a certificate or key is not in PEM format, or the key is not that of the certificate"),
)
"""What OpenSSL says, in small letters, and what to do about it."""


def _failure_hint(error: BaseException, cause: BaseException) -> str:
    if isinstance(error, requests.exceptions.ProxyError):
        return "; the proxy comes from HTTP_PROXY or HTTPS_PROXY, and NO_PROXY leaves hosts out"
    text = str(cause).lower().replace("_", " ")
    hint = next((hint for words, hint in _TLS_HINTS if words.replace("_", " ") in text), None)
    return "" if hint is None else f"; {hint}"


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
