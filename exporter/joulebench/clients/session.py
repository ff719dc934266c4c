"""The HTTP session of the clients: keep-alive, and no proxy between this machine and itself."""

from __future__ import annotations

from urllib.parse import urlsplit

import requests

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def session_for(url: str) -> requests.Session:
    """For one thread: a ``requests.Session`` is not safe in two."""
    session = requests.Session()
    # A proxy from the environment cannot reach our loopback, and would get every push.
    session.trust_env = urlsplit(url).hostname not in LOOPBACK
    return session


def told(error: requests.RequestException) -> str:
    """The innermost reason, without the layers of the connection pool."""
    cause: BaseException = error
    while (inner := getattr(cause, "reason", None) or cause.__cause__ or cause.__context__) and isinstance(inner, BaseException):
        cause = inner
    return f"{type(error).__name__}: {cause}"
