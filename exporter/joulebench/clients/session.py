"""The one connection setup of all HTTP clients: proxies, certificates, credentials and retries.

From the environment come proxies (``HTTP_PROXY``, ``HTTPS_PROXY``, ``NO_PROXY``), CA bundles (``REQUESTS_CA_BUNDLE``,
``CURL_CA_BUNDLE``, ``SSL_CERT_FILE``, ``SSL_CERT_DIR``) and credentials (``.netrc``). Only the proxy is left out for an address
of this machine, which a proxy could not reach. Credentials in a URL are sent as basic authentication and never stand in an
error.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_environ_proxies, get_netrc_auth
from urllib3.util.retry import Retry

from joulebench.clients.connection import shown
from joulebench.clock import Clock, SystemClock
from joulebench.settings import ConnectionSettings, Url, read_secret_file

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")

_FIRST_PAUSE_SECONDS = 0.1
_MAX_PAUSE_SECONDS = 2.0
_STARTING_UP = (502, 503, 504)


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
