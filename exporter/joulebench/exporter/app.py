"""The exporter's HTTP application: /metrics, /api/v1/energy, /healthz and the page at /.

Nothing here waits for hardware or another server; only the energy API waits, and never longer than it was asked to.
"""

from __future__ import annotations

import asyncio
import html
import json
import logging
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from joulebench import __version__
from joulebench.exporter.energy_api import EnergyApi
from joulebench.exporter.exposition import Exposition
from joulebench.exporter.web_config import WebConfig
from joulebench.http_server import replaceable
from joulebench.supervise import PROCESS_ERRORS, LoopErrors

log = logging.getLogger(__name__)

GZIP_FROM = 1024
"""Bytes; below it gzip costs more than it saves, as for the 250 ms scrape of two metrics of a few GPUs."""
MAX_NAMES = 256
"""``name[]`` parameters of one scrape."""
MAX_BODY_BYTES, BODY_SECONDS = 1 << 19, 10.0
"""Of a request for many windows, and until it has to be complete."""
REALM = {"WWW-Authenticate": 'Basic realm="joulebench"'}


def build_app(
    exposition: Exposition,
    energy: EnergyApi,
    gpu_source: Callable[[], str],
    web_config: WebConfig,
    errors: LoopErrors = PROCESS_ERRORS,
) -> web.Application:
    """``gpu_source``: nvml, amd, simulated or none, for the page at /. ``errors``: shown by /healthz."""

    async def metrics(request: web.Request) -> web.Response:
        names = request.query.getall("name[]", None)
        if names is not None and len(names) > MAX_NAMES:
            return web.Response(status=400, text=f"{len(names)} name[] parameters; at most {MAX_NAMES} are answered\n")
        body, content_type = exposition.render(None if names is None else frozenset(names), request.headers.get("Accept", ""))
        response = web.Response(body=body, headers={"Content-Type": content_type, "Vary": "Accept-Encoding"})
        if len(body) >= GZIP_FROM and not _is_local(request):
            response.enable_compression()
        return response

    async def window_energy(request: web.Request) -> web.Response:
        status, answer = await energy.answer(request.query_string)
        body = json.dumps(answer, allow_nan=False).encode() + b"\n"
        return web.Response(status=status, body=body, content_type="application/json")

    async def window_energies(request: web.Request) -> web.Response:
        try:
            lines = (await asyncio.wait_for(request.read(), BODY_SECONDS)).decode("utf-8", "replace").splitlines()
        except asyncio.TimeoutError:
            return web.Response(status=408, text=f"the body was not complete after {BODY_SECONDS:g} s\n")
        status, answer = await energy.answer_many(lines)
        body = json.dumps(answer, allow_nan=False).encode() + b"\n"
        return web.Response(status=status, body=body, content_type="application/json")

    async def health(request: web.Request) -> web.Response:  # noqa: ARG001 - aiohttp passes it
        failed = "".join(f"{loop}: {error}\n" for loop, error in errors.last().items())
        return web.Response(text="ok\n" + failed)

    async def page(request: web.Request) -> web.Response:  # noqa: ARG001 - aiohttp passes it
        return web.Response(text=landing_page(gpu_source()), content_type="text/html")

    app = web.Application(middlewares=[explain_errors, require_password(web_config)], client_max_size=MAX_BODY_BYTES)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/api/v1/energy", window_energy)
    app.router.add_post("/api/v1/energy", window_energies)
    app.router.add_get("/healthz", health)
    app.router.add_get("/", page)
    return app


def require_password(web_config: WebConfig) -> Middleware:
    """Returns a middleware that answers 401 to everyone without a right password, where the configuration has users."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        auth = web_config.auth
        if auth is not None:
            with replaceable(request):
                allowed = await auth.allow(request.headers.get("Authorization", ""), request.remote or "")
            if not allowed:
                return web.Response(status=401, text="unauthorized\n", headers=REALM)
        return await handler(request)

    return check


@web.middleware
async def explain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Names the known paths in a 404, and logs a failure whose answer shows nothing of it."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return web.Response(status=404, text="not found; there are /metrics, /api/v1/energy, /healthz and /\n")
    except web.HTTPException:
        raise
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return web.Response(status=500, text="internal error, see the exporter's log\n")


def _is_local(request: web.Request) -> bool:
    """Whether the client is on this machine, where bytes are cheaper than their compression."""
    transport = request.transport
    if transport is None:
        return False
    own, peer = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
    return bool(own and peer and own[0] == peer[0])


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
