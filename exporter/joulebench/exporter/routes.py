"""From one HTTP request to one HTTP response, without a socket: /metrics, /api/v1/energy, /healthz and the page at /.

Nothing here waits for hardware or another server; only the energy API waits, and never longer than it was asked to.
"""

from __future__ import annotations

import gzip
import html
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import parse_qs, urlsplit

from joulebench import __version__
from joulebench.exporter.energy_api import EnergyApi
from joulebench.exporter.exposition import OPENMETRICS, Exposition, content_type

log = logging.getLogger(__name__)

HTML = "text/html; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
GZIP_FROM = 1024
"""Bytes; below it gzip costs more than it saves, as for the 250 ms scrape of two families of a few GPUs."""
VARY = {"Vary": "Accept-Encoding"}


@dataclass(frozen=True, slots=True)
class Request:
    """``headers`` by lower-case name. ``local``: sent from this very machine, where bytes are cheaper than their compression."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    local: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Routes:
    def __init__(self, exposition: Exposition, energy: EnergyApi, gpu_source: str) -> None:
        self._exposition = exposition
        self._energy = energy
        self._page = landing_page(gpu_source).encode()

    def answer(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response(405, TEXT, b"only GET and HEAD\n", {"Allow": "GET, HEAD"})
        try:
            url = urlsplit(request.target)
        except ValueError:
            return Response(400, TEXT, b"the request target is not a URL\n")
        try:
            return self._route(url.path, url.query, request)
        except Exception:
            log.exception("%s %s failed", request.method, url.path)
            return Response(500, TEXT, b"internal error, see the exporter's log\n")

    def _route(self, path: str, query: str, request: Request) -> Response:
        match path:
            case "/metrics":
                return self._metrics(query, request)
            case "/api/v1/energy":
                status, body = self._energy.answer(query)
                return Response(status, JSON, json.dumps(body, allow_nan=False).encode() + b"\n")
            case "/healthz":
                return Response(200, TEXT, b"ok\n")
            case "/":
                return Response(200, HTML, self._page)
            case _:
                return Response(404, TEXT, b"not found; there are /metrics, /api/v1/energy, /healthz and /\n")

    def _metrics(self, query: str, request: Request) -> Response:
        kind = content_type(request.headers.get("accept", ""))
        body = self._exposition.text(_names(query), openmetrics=kind.startswith(OPENMETRICS))
        if request.local or len(body) < GZIP_FROM or not takes_gzip(request.headers.get("accept-encoding", "")):
            return Response(200, kind, body, VARY)
        return Response(200, kind, gzip.compress(body, compresslevel=3), {**VARY, "Content-Encoding": "gzip"})


@lru_cache(maxsize=64)
def _names(query: str) -> frozenset[str] | None:
    """Those that ``name[]`` limits the answer to; the same few are asked for again and again."""
    wanted = parse_qs(query).get("name[]") if query else None
    return None if wanted is None else frozenset(wanted)


def takes_gzip(accept_encoding: str) -> bool:
    """Whether the header names gzip, or *, with a weight above 0."""
    for part in accept_encoding.lower().split(","):
        name, _, weight = part.partition(";")
        if name.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def landing_page(gpu_source: str) -> str:
    links = (
        ("/metrics", "metrics, for Prometheus; <code>?name[]=</code> limits them"),
        (
            "/api/v1/energy",
            "energy of a window: <code>?start=&amp;end=</code> in unix seconds, <code>&amp;wait=</code> up to 2 s",
        ),
        ("/healthz", "health"),
    )
    listing = "".join(f'<li><a href="{path}">{path}</a> {text}</li>' for path, text in links)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Joulebench exporter</title></head>'
        f"<body><h1>Joulebench exporter</h1><p>Version {html.escape(__version__)}, GPU source: {html.escape(gpu_source)}</p>"
        f"<ul>{listing}</ul></body></html>\n"
    )
