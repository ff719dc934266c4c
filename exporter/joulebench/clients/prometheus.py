"""The only reader of the Prometheus HTTP API: instant queries, as JSON.

A range selector in an instant query gives stored samples with their own timestamps; ``query_range`` would re-stamp them. The
parameters that Thanos, Mimir and VictoriaMetrics need to answer the same way are always sent, and Prometheus ignores them.
An answer is complete or an error: nothing partial is handed on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from joulebench.clients.connection import HttpClient, RequestFailed, Response, ResponseBroken, shown
from joulebench.clock import Clock
from joulebench.errors import PrometheusError, QueryRefused
from joulebench.settings import ConnectionSettings, Url, connection_settings

if TYPE_CHECKING:
    from joulebench.clients.matrix import Column
    from joulebench.clients.session import PatientRetry

PATIENCE_SECONDS = 10.0
MAX_WARNINGS = 100

_PARAMETERS = {"max_source_resolution": "0s", "nocache": "1", "latency_offset": "0", "partial_response": "false"}
# Gzip costs more than it saves on a local network: the answer is read 2 times faster without.
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}
_REFUSED = 422
_STARTING_UP = (502, 503, 504)


@dataclass(frozen=True, slots=True)
class Series:
    """One series: labels with ``__name__`` where the query kept it, and (unix seconds, value) in rising order of time."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


class PrometheusApi:
    """For one thread. ``patience``: seconds for which a server that cannot be reached, or is starting up, is asked again."""

    def __init__(
        self,
        url: str | Url,
        timeout: float = 10.0,
        *,
        patience: float = PATIENCE_SECONDS,
        clock: Clock | None = None,
        wait: Callable[[float], object] | None = None,
        settings: ConnectionSettings | None = None,
    ) -> None:
        self._url = url if isinstance(url, Url) else Url.parse(url, "--prometheus-url")
        settings = settings or connection_settings("prometheus")
        retries = partial(_patient_retry, patience, clock, wait)
        self._client = HttpClient(self._url, timeout, settings=settings, retries=retries, headers=_HEADERS)
        self._impatient = HttpClient(self._url, timeout, settings=settings, headers=_HEADERS)
        self.warnings: dict[str, None] = {}
        """What the server warned of, each once, in the order of first sight."""

    @property
    def shown_url(self) -> str:
        """The address without credentials."""
        return str(self._url)

    def query(self, expr: str, time: float | None = None) -> list[Series]:
        """Every series of ``expr`` at ``time`` (unix seconds, default: the server's now). Raises PrometheusError."""
        parameters = {"query": expr, **_PARAMETERS}
        if time is not None:
            parameters["time"] = f"{time:.3f}"
        status, body = self._response(parameters, self._client)
        return self._series_of(self._checked(_json(body), status, expr), expr)

    def raw(self, expr: str, time: float) -> bytes:
        """The body of the answer to a range selector, for ``columns``. Raises PrometheusError."""
        parameters = {"query": expr, "time": f"{time:.3f}", **_PARAMETERS}
        status, body = self._response(parameters, self._client)
        if status != 200:
            self._checked(_json(body), status, expr)
        return body

    def columns(self, body: bytes, expr: str) -> list[Column]:
        """The series of a body that ``raw`` gave for ``expr``. Raises PrometheusError."""
        # A benchmark, which only queries what was pushed, needs neither numpy nor msgspec.
        from joulebench.clients import matrix

        try:
            answer, found = matrix.decode_matrix(body)
        except (ValueError, RecursionError):
            whole = self._checked(_json(body), 200, expr)
            return [matrix.column_of_points(series.labels, series.points) for series in self._series_of(whole, expr)]
        self._checked(answer, 200, expr)
        return found

    def ready(self) -> bool:
        """Whether a query is answered now."""
        try:
            status, body = self._response({"query": "vector(1)"}, self._impatient)
            self._checked(_json(body), status, "vector(1)")
        except PrometheusError:
            return False
        return True

    def close(self) -> None:
        self._client.close()
        self._impatient.close()

    def _response(self, parameters: Mapping[str, str], client: HttpClient) -> tuple[int, bytes]:
        """(status, body)"""

        def ask() -> Response:
            return client.request("GET", "/api/v1/query", params=parameters, allow_redirects=True)

        try:
            try:
                response = ask()
            except ResponseBroken:
                # As when the server is restarted in the middle of a response; the second request waits for it.
                response = ask()
        except RequestFailed as error:
            raise PrometheusError(f"{self.shown_url}: {error}") from error
        if hint := client.refusal_hint(response.status, response.shown_text):
            raise PrometheusError(f"{self.shown_url}: HTTP {response.status} {response.shown_text}{hint}")
        if response.status in _STARTING_UP:
            raise PrometheusError(f"{self.shown_url}: HTTP {response.status} {response.shown_text}")
        return response.status, response.body

    def _checked(self, body: object, status: int, expr: str) -> dict[str, Any]:
        """Raises PrometheusError for what is no successful answer; keeps its warnings."""
        if body is None:
            raise PrometheusError(f"{self.shown_url}: HTTP {status} without valid JSON to {expr}")
        if not isinstance(body, dict):
            raise PrometheusError(f"{self.shown_url}: HTTP {status} without a JSON object to {expr}")
        if status != 200 or body.get("status") != "success":
            reason = shown(str(body.get("error", "no reason given")))
            kind = QueryRefused if status == _REFUSED else PrometheusError
            raise kind(f"{self.shown_url}: HTTP {status}, {reason}; the query was {expr}")
        warnings = body.get("warnings") or []
        if not isinstance(warnings, list):
            raise PrometheusError(f"{self.shown_url}: not an answer of the query API (warnings {warnings!r}) to {expr}")
        self.warnings.update(dict.fromkeys(shown(str(warning)) for warning in warnings[:MAX_WARNINGS]))
        return body

    def _series_of(self, body: Mapping[str, Any], expr: str) -> list[Series]:
        try:
            return _series(body["data"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise PrometheusError(f"{self.shown_url}: not an answer of the query API ({error!r}) to {expr}") from error


def _json(body: bytes) -> object:
    """None for what is no JSON, or the JSON null, which is no answer either."""
    try:
        found: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found


def _series(data: Mapping[str, Any]) -> list[Series]:
    kind, result = data["resultType"], data["result"]
    if kind != "scalar" and not all(isinstance(row["metric"], dict) for row in result):
        raise ValueError("labels that are none")
    if kind == "matrix":
        # A series of native histograms has no "values"; none of our metrics is one.
        return [Series(row["metric"], _in_order(row["values"])) for row in result if "values" in row]
    if kind == "vector":
        return [Series(row["metric"], _in_order([row["value"]])) for row in result if "value" in row]
    if kind == "scalar":
        return [Series({}, _in_order([result]))]
    raise ValueError(f"result type {kind!r}")


def _in_order(rows: list[tuple[float, str]]) -> list[tuple[float, float]]:
    points = [(at, float(value)) for at, value in rows]
    # Where replicas are merged or a range is closed on both ends, a timestamp may come twice.
    if any(later[0] <= earlier[0] for earlier, later in pairwise(points)):
        points = sorted(dict(points).items())
    return points


def _patient_retry(patience: float, clock: Clock | None, wait: Callable[[float], object] | None) -> PatientRetry:
    from joulebench.clients.session import PatientRetry

    return PatientRetry(patience=patience, clock=clock, wait=wait)
