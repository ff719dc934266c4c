"""Defaults and checked values of what a user may set: by flag first, by environment second.

Every address defaults to loopback. A value that cannot be used raises ``UserError`` with the name of the setting and an
example of a good value; nothing falls back silently.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from joulebench.errors import UserError

EXPORTER_PORT = 18347
DEFAULT_LISTEN_ADDRESS = f"127.0.0.1:{EXPORTER_PORT}"
PROXY_METRICS_PORT = 18348
PROXY_PORT = 18349
DEFAULT_PROXY_METRICS_ADDRESS = f"127.0.0.1:{PROXY_METRICS_PORT}"
DEFAULT_PROXY_ADDRESS = f"127.0.0.1:{PROXY_PORT}"
DEFAULT_EXPORTER_URL = f"http://127.0.0.1:{EXPORTER_PORT}"
DEFAULT_GATEWAY_URL = "http://127.0.0.1:9091"
DEFAULT_PROMETHEUS_URL = "http://127.0.0.1:9090"
NO_URL = "none"
"""Given instead of an address: there is no such program."""
DEFAULT_OLLAMA_URL = "http://127.0.0.1:11434"
DEFAULT_RUNS_DIR = "runs"

ENV_EXPORTER_URL = "JOULEBENCH_EXPORTER_URL"
ENV_GATEWAY_URL = "JOULEBENCH_GATEWAY_URL"
ENV_PROMETHEUS_URL = "JOULEBENCH_PROMETHEUS_URL"
ENV_RUNS_DIR = "JOULEBENCH_RUNS_DIR"
ENV_RUN_ID = "JOULEBENCH_RUN_ID"
ENV_SUITE = "JOULEBENCH_SUITE"
ENV_OLLAMA_HOST = "OLLAMA_HOST"
ENV_OLLAMA_CACHE = "OLLAMA_KV_CACHE_TYPE"
ENV_OLLAMA_PARALLEL = "OLLAMA_NUM_PARALLEL"


def http_url(value: str, setting: str) -> str:
    """``value`` without a trailing slash, checked to be an http(s) URL with a host."""
    parts = urlsplit(value)
    try:
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        port_is_fine = False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        raise UserError(f"{setting}: {value!r} is not a URL; give one such as {DEFAULT_PROMETHEUS_URL}")
    return value.rstrip("/")


def listen_address(value: str, setting: str = "--web.listen-address") -> tuple[str, int]:
    """``HOST:PORT``, ``[IPV6]:PORT`` or ``:PORT`` (all interfaces) as (host, port)."""
    host, separator, port_text = value.rpartition(":")
    if not separator or not port_text.isdecimal() or not 0 <= int(port_text) <= 65535:
        raise UserError(f"{setting}: {value!r} is not HOST:PORT; give one such as {DEFAULT_LISTEN_ADDRESS}")
    return host.strip("[]"), int(port_text)


def ollama_url(environ: Mapping[str, str] = os.environ) -> str:
    """The server that ``OLLAMA_HOST`` names, read as the Ollama client reads it: scheme and port may be left out."""
    value = environ.get(ENV_OLLAMA_HOST, "").strip()
    if not value:
        return DEFAULT_OLLAMA_URL
    if "://" not in value:
        value = f"http://{value}"
    parts = urlsplit(http_url(value, ENV_OLLAMA_HOST))
    host = "127.0.0.1" if parts.hostname == "0.0.0.0" else parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    default_port = {"http": 11434, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}:{parts.port or default_port}"


def from_env(name: str, default: str, environ: Mapping[str, str] = os.environ) -> str:
    return environ.get(name, "").strip() or default
