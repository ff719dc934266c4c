"""The Pushgateway's API: the only place that PUTs and DELETEs metric groups.

A PUT replaces a whole group in one step, so what is scraped is always one complete push. Values of the grouping key that
cannot stand in a path (``/``, spaces, an empty or dots-only value, anything not ASCII) travel as ``name@base64``.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from joulebench.clients.connection import HttpClient, RequestFailed, Response
from joulebench.errors import GatewayError
from joulebench.settings import ConnectionSettings, Url, connection_settings

if TYPE_CHECKING:
    from joulebench.metrics.families import Family

MAX_RESPONSE_BYTES = 1 << 28
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text format that ``generate_latest`` writes."""

_PLAIN = re.compile(r"(?!\.+$)[A-Za-z0-9._-]+")


class GatewayRefused(GatewayError):
    """The Pushgateway answered and said no to this group; others may still pass."""


def group_path(key: Mapping[str, str]) -> str:
    """The path of a group; ``job`` is required and comes first."""
    return "/metrics" + "".join(f"/{_part(name, key[name])}" for name in ("job", *(name for name in key if name != "job")))


def _part(name: str, value: str) -> str:
    if _PLAIN.fullmatch(value):
        return f"{name}/{value}"
    # The gateway wants a lone padding character for an empty value.
    return f"{name}@base64/{base64.urlsafe_b64encode(value.encode()).decode() or '='}"


class Pushgateway:
    """For one thread. Every method raises GatewayError when the gateway cannot be reached in ``timeout`` seconds."""

    def __init__(self, url: str | Url, timeout: float = 5.0, settings: ConnectionSettings | None = None) -> None:
        self.url = url if isinstance(url, Url) else Url.parse(url, "--gateway-url")
        self._client = HttpClient(
            self.url, timeout, settings=settings or connection_settings("pushgateway"), max_bytes=MAX_RESPONSE_BYTES
        )

    def put(self, families: Iterable[Family], key: Mapping[str, str]) -> None:
        """Replaces the group. Raises GatewayRefused with the gateway's own words where it does not take it."""
        # Loaded with the first push, in the thread that pushes.
        from prometheus_client import generate_latest

        self._request("PUT", group_path(key), generate_latest(_Families(families)))

    def delete(self, key: Mapping[str, str]) -> None:
        """Deletes exactly this group; one that is not there is no error."""
        self._request("DELETE", group_path(key))

    def groups(self) -> list[dict[str, str]]:
        """The grouping keys that the gateway holds, of everyone."""
        response = self._request("GET", "/api/v1/metrics")
        try:
            return [{str(name): str(value) for name, value in group["labels"].items()} for group in response.json()["data"] or []]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise GatewayError(f"{self.url}/api/v1/metrics: not the answer of a Pushgateway ({type(error).__name__})") from error

    def close(self) -> None:
        self._client.close()

    def _request(self, method: str, path: str, body: bytes | None = None) -> Response:
        headers = {"Content-Type": CONTENT_TYPE} if body is not None else {}
        try:
            response = self._client.request(method, path, body=body, headers=headers)
        except RequestFailed as error:
            raise GatewayError(f"{self.url}: {error}") from error
        if response.status >= 300:
            hint = self._client.refusal_hint(response.status, response.shown_text)
            raise GatewayRefused(f"{method} {self.url}{path}: {response.status} {response.shown_text}{hint}")
        return response


class _Families:
    """Families as the collector that the exposition wants."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families
