"""Defaults and checked values of what a user may set: by flag first, by environment second.

Every address defaults to loopback. A value that cannot be used raises ``UserError`` with the name of the setting and an
example of a good value; nothing falls back silently. A ``Url`` prints itself without its user name and password, so that it can
stand in a log, an error, a journal or a result.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from joulebench.errors import UserError
from joulebench.files import load_yaml

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
OLLAMA_PORT = 11434
DEFAULT_OLLAMA_URL = f"http://127.0.0.1:{OLLAMA_PORT}"
DEFAULT_RUNS_DIR = "runs"
MAX_SECRET_BYTES = 1_000_000
MAX_TIMEOUT_SECONDS = 600.0

ENV_EXPORTER_URL = "JOULEBENCH_EXPORTER_URL"
ENV_GATEWAY_URL = "JOULEBENCH_GATEWAY_URL"
ENV_PROMETHEUS_URL = "JOULEBENCH_PROMETHEUS_URL"
ENV_CONNECTIONS_FILE = "JOULEBENCH_CONNECTIONS_FILE"
ENV_RUNS_DIR = "JOULEBENCH_RUNS_DIR"
ENV_RUN_ID = "JOULEBENCH_RUN_ID"
ENV_SUITE = "JOULEBENCH_SUITE"
ENV_TASK_FILE = "JOULEBENCH_TASK_FILE"
ENV_INSTRUMENT = "JOULEBENCH_INSTRUMENT"
ENV_METERS = "JOULEBENCH_METERS"
"""1: the clients of openai, ollama and litellm are recorded; 0: they are not, under ``joulebench run`` either."""
ENV_INFRASTRUCTURE = "INFRASTRUCTURE_TAG"
"""The name that the MCPWorld client and its scripts use."""
ENV_OLLAMA_HOST = "OLLAMA_HOST"
ENV_OLLAMA_CACHE = "OLLAMA_KV_CACHE_TYPE"
ENV_OLLAMA_PARALLEL = "OLLAMA_NUM_PARALLEL"


MASK = "***"


@dataclass(frozen=True, slots=True)
class Url:
    """An http(s) address. ``base``: the address to connect to, without credentials and without a trailing slash."""

    base: str
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, value: str, setting: str, example: str = DEFAULT_PROMETHEUS_URL) -> Url:
        """Raises UserError, which names ``setting`` and shows ``value`` without its credentials, for what is no http(s) URL."""
        try:
            parts = urlsplit(value.strip())
            host, port = parts.hostname or "", parts.port
        except (ValueError, AttributeError):
            host, port, parts = "", None, urlsplit("")
        if parts.scheme not in ("http", "https") or not host or port == 0 or not value.isprintable() or " " in value.strip():
            raise UserError(f"{setting}: {_mask_value(value)!r} is not a URL; give one such as {example}")
        netloc = f"[{host}]" if ":" in host else host
        if port is not None:
            netloc += f":{port}"
        base = f"{parts.scheme}://{netloc}{parts.path}".rstrip("/")
        if parts.query or parts.fragment:
            raise UserError(f"{setting}: {cls(base)} is given with a query or fragment; give the address alone")
        return cls(base, unquote(parts.username or ""), unquote(parts.password or ""))

    def __str__(self) -> str:
        return self.base.replace("://", f"://{MASK}@", 1) if self.has_credentials else self.base

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    @property
    def has_credentials(self) -> bool:
        return bool(self.username or self.password)

    @property
    def is_loopback(self) -> bool:
        return is_loopback(urlsplit(self.base).hostname or "")

    def reveal(self) -> str:
        """The address with its credentials, to hand to another program; never to be printed."""
        if not self.has_credentials:
            return self.base
        credentials = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}"
        return self.base.replace("://", f"://{credentials}@", 1)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where a benchmark, an export or a report finds the programs of a stack. ``None``: there is no such program."""

    gateway: Url | None
    prometheus: Url | None
    exporters: tuple[Url, ...]
    runs_dir: Path

    @property
    def exporter(self) -> Url | None:
        """The first exporter, which is the only one of most machines."""
        return self.exporters[0] if self.exporters else None

    @classmethod
    def from_settings(
        cls,
        *,
        gateway_url: str | None = None,
        prometheus_url: str | None = None,
        exporter_url: str | Iterable[str] | None = None,
        runs_dir: str | os.PathLike[str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Endpoints:
        """What is given first, the environment second, loopback last; ``none`` stands for a program that is not there.

        ``exporter_url``: one address, or several separated by commas or in a list: the exporters of all hosts that serve.

        Raises UserError for what is no URL.
        """
        environ = os.environ if environ is None else environ
        return cls(
            gateway=_endpoint(gateway_url, "gateway_url", ENV_GATEWAY_URL, DEFAULT_GATEWAY_URL, environ),
            prometheus=_endpoint(prometheus_url, "prometheus_url", ENV_PROMETHEUS_URL, DEFAULT_PROMETHEUS_URL, environ),
            exporters=_exporters(exporter_url, environ),
            runs_dir=Path(runs_dir or from_env(ENV_RUNS_DIR, DEFAULT_RUNS_DIR, environ)),
        )

    def environment(self) -> dict[str, str]:
        """The variables that give a child process the same endpoints. Holds credentials: not to be printed."""
        urls = {ENV_GATEWAY_URL: self.gateway, ENV_PROMETHEUS_URL: self.prometheus}
        values = {name: NO_URL if url is None else url.reveal() for name, url in urls.items()}
        exporters = ",".join(url.reveal() for url in self.exporters) or NO_URL
        return {**values, ENV_EXPORTER_URL: exporters, ENV_RUNS_DIR: str(self.runs_dir)}


def _exporters(given: str | Iterable[str] | None, environ: Mapping[str, str]) -> tuple[Url, ...]:
    """Raises UserError for what is no URL, and for ``none`` beside an address."""
    if given is not None:
        value, name = given, "exporter_url"
    else:
        value, name = from_env(ENV_EXPORTER_URL, DEFAULT_EXPORTER_URL, environ), ENV_EXPORTER_URL
    words = [word.strip() for word in (value.split(",") if isinstance(value, str) else value)]
    if words == [NO_URL]:
        return ()
    return tuple(dict.fromkeys(Url.parse(word, name, DEFAULT_EXPORTER_URL) for word in words))


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """How a client is let in by one server. Prints itself without passwords and tokens.

    Files of secrets are read at each connection or request, so that a renewed token counts. ``url``: the only server that these
    settings are for; None for any server of the kind.
    """

    url: Url | None = None
    username: str = ""
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    bearer_token: str = field(default="", repr=False)
    bearer_token_file: Path | None = None
    tenant: str = ""
    tenant_header: str = "X-Scope-OrgID"
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    timeout_seconds: float | None = None

    @property
    def has_basic_auth(self) -> bool:
        return bool(self.username)

    @property
    def has_bearer_token(self) -> bool:
        return bool(self.bearer_token or self.bearer_token_file)

    def applies_to(self, url: Url) -> bool:
        """Whether ``url`` is on the server of these settings: a secret for one server is never sent to another."""
        if self.url is None:
            return True
        ours, theirs = urlsplit(self.url.base), urlsplit(url.base)
        return (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc)


_SETTING_NAMES = tuple(name for name in ConnectionSettings.__dataclass_fields__ if name != "url")
_FILE_NAMES = ("password_file", "bearer_token_file", "ca_file", "client_cert_file", "client_key_file")
_SERVER_VARIABLES = {"prometheus": "PROMETHEUS", "pushgateway": "GATEWAY", "exporter": "EXPORTER"}
SERVERS = tuple(_SERVER_VARIABLES)
"""Sections of the connections file."""


def connection_settings(server: str, environ: Mapping[str, str] | None = None) -> ConnectionSettings:
    """The settings for ``server``, one of SERVERS: from ``JOULEBENCH_<SERVER>_<NAME>``, else from the connections file.

    Raises UserError for settings that cannot be used.
    """
    environ = os.environ if environ is None else environ
    prefix = f"JOULEBENCH_{_SERVER_VARIABLES[server]}_"
    values = {name: value for name in _SETTING_NAMES if (value := environ.get(prefix + name.upper(), "").strip())}
    file_settings = ConnectionSettings()
    if path := environ.get(ENV_CONNECTIONS_FILE, "").strip():
        file_settings = load_connections(Path(path)).get(server, file_settings)
    if not values:
        return file_settings
    return _checked_settings(values, f"{prefix}*", Path(), file_settings)


def load_connections(path: Path) -> dict[str, ConnectionSettings]:
    """The settings by server of a connections file; relative paths in it count from its directory. Raises UserError."""
    where = f"--connections.file {path}"
    try:
        content = load_yaml(path)
    except OSError as error:
        raise UserError(f"{where}: {error.strerror}; give a file that can be read") from error
    except ValueError:
        # The text of a YAML error shows lines of the file, where secrets may stand.
        raise UserError(f"{where}: is not YAML; it holds sections such as 'prometheus: {{url: ..., tenant: ...}}'") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not set(content) <= set(SERVERS):
        raise UserError(f"{where}: it may hold the sections {', '.join(SERVERS)} and no other")
    return {server: _section(section, f"{where}: {server}", path.parent) for server, section in content.items()}


def connections_environment(path: Path) -> dict[str, str]:
    """The variables that make a connections file and its addresses count in this process and its children."""
    variables = {"prometheus": ENV_PROMETHEUS_URL, "pushgateway": ENV_GATEWAY_URL, "exporter": ENV_EXPORTER_URL}
    urls = {server: settings.url for server, settings in load_connections(path).items()}
    found = {variables[server]: url.reveal() for server, url in urls.items() if url is not None}
    return {ENV_CONNECTIONS_FILE: str(path), **found}


def _section(section: object, where: str, directory: Path) -> ConnectionSettings:
    if not isinstance(section, dict):
        raise UserError(f"{where}: must hold settings such as url, bearer_token_file and tenant")
    values = {str(name): value for name, value in section.items()}
    basic = values.pop("basic_auth", None)
    if basic is not None:
        if (
            not isinstance(basic, dict)
            or not set(basic) <= {"username", "password", "password_file"}
            or not basic.get("username")
        ):
            raise UserError(f"{where}: basic_auth must hold username, and password or password_file")
        values.update(basic)
    url = values.pop("url", None)
    return _checked_settings(
        values, where, directory, ConnectionSettings(url=None if url is None else Url.parse(str(url), f"{where}: url"))
    )


def _checked_settings(values: Mapping[str, object], where: str, directory: Path, base: ConnectionSettings) -> ConnectionSettings:
    """``base`` with ``values``, each of which is checked. The message of a refusal names a setting and never shows a secret."""
    unknown = sorted(set(values) - set(_SETTING_NAMES))
    if unknown:
        raise UserError(
            f"{where}: there is no setting {', '.join(map(repr, unknown))}; there are url, {', '.join(_SETTING_NAMES)}"
        )
    checked: dict[str, Any] = {}
    for name, value in values.items():
        text = str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
        if not text or not text.isprintable():
            raise UserError(f"{where}: {name} must be a text of printable characters")
        checked[name] = text
    for name in _FILE_NAMES:
        if name in checked:
            checked[name] = directory / Path(checked[name]).expanduser()
            read_secret_file(checked[name], f"{where}: {name}", is_one_line=name in ("password_file", "bearer_token_file"))
    if "timeout_seconds" in checked:
        checked["timeout_seconds"] = _timeout(checked["timeout_seconds"], where)
    if "tenant_header" in checked and not re.fullmatch(r"[A-Za-z0-9-]{1,100}", checked["tenant_header"]):
        raise UserError(f"{where}: tenant_header must be the name of an HTTP header such as X-Scope-OrgID")
    settings = replace(base, **checked)
    if settings.has_basic_auth and settings.has_bearer_token:
        raise UserError(f"{where}: give either basic authentication or a bearer token, not both")
    if (settings.password or settings.password_file) and not settings.username:
        raise UserError(f"{where}: a password needs a username beside it")
    if settings.client_key_file and not settings.client_cert_file:
        raise UserError(f"{where}: client_key_file needs client_cert_file beside it")
    return settings


def _timeout(text: str, where: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
        raise UserError(f"{where}: timeout_seconds must be a number above 0, at most {MAX_TIMEOUT_SECONDS:g}")
    return seconds


def read_secret_file(path: Path, setting: str, *, is_one_line: bool = True) -> str:
    """The content of a file without the whitespace around it. Raises UserError, which names ``setting``."""
    try:
        if path.exists() and not path.is_file():
            # It is read again and again, and a pipe would wait for a writer each time.
            raise UserError(f"{setting}: {path} is no regular file; write the secret into one")
        with path.open("rb") as file:
            secret = file.read(MAX_SECRET_BYTES + 1).decode("utf-8")
    except OSError as error:
        raise UserError(f"{setting}: {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{setting}: {path} is not a text file") from error
    if len(secret) > MAX_SECRET_BYTES:
        raise UserError(f"{setting}: {path} is longer than {MAX_SECRET_BYTES:,} bytes")
    if is_one_line and not secret.strip().isprintable():
        raise UserError(f"{setting}: {path} has to hold the secret alone, on one line")
    return secret.strip()


def _endpoint(given: str | None, setting: str, variable: str, default: str, environ: Mapping[str, str]) -> Url | None:
    value, name = (given, setting) if given is not None else (from_env(variable, "", environ), variable)
    if value:
        return None if value.strip() == NO_URL else Url.parse(value, name, default)
    server = next(server for server, part in _SERVER_VARIABLES.items() if f"_{part}_" in variable)
    return connection_settings(server, environ).url or Url.parse(default, variable)


def http_url(value: str, setting: str) -> str:
    """``value`` without a trailing slash, checked to be an http(s) URL with a host. Holds the credentials of ``value``."""
    return Url.parse(value, setting).reveal()


def mask_credentials(text: str) -> str:
    """``text`` in which the part of each word between ``//`` and the last ``@`` is replaced by ``***``."""
    return re.sub(r"\b(\w{1,20}://)[^\s'\"]*@", rf"\1{MASK}@", text)


def _mask_value(value: object) -> str:
    """A value that is no URL, without anything before its last ``@``, where credentials may stand."""
    text = str(value)
    scheme, separator, _ = text.partition("://")
    start = scheme + separator if separator and "@" not in scheme else ""
    return f"{start}{MASK}@{text.rpartition('@')[2]}" if "@" in text else text


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by its name or address alone; nothing is resolved."""
    name = host.strip("[]").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def listen_address(value: str, setting: str = "--web.listen-address") -> tuple[str, int]:
    """``HOST:PORT``, ``[IPV6]:PORT`` or ``:PORT`` (all interfaces) as (host, port)."""
    host, separator, port_text = value.rpartition(":")
    if not separator or not port_text.isdecimal() or not 0 <= int(port_text) <= 65535:
        raise UserError(f"{setting}: {value!r} is not HOST:PORT; give one such as {DEFAULT_LISTEN_ADDRESS}")
    return host.strip("[]"), int(port_text)


def ollama_url(environ: Mapping[str, str] = os.environ) -> str:
    """The address at which a client reaches the server that ``OLLAMA_HOST`` names, always with its port.

    Read as Ollama's own ``envconfig.Host`` does: quotes around the value are dropped, a missing scheme is http with port 11434,
    the schemes http and https bring ports 80 and 443, a path is kept, and a port that is none becomes the default one. The
    addresses on which a server listens everywhere (``0.0.0.0``, ``::``, no host) are reached over loopback.
    """
    value = environ.get(ENV_OLLAMA_HOST, "").strip().strip("\"'").strip()
    scheme, separator, rest = value.partition("://")
    default_port = OLLAMA_PORT
    if not separator:
        scheme, rest = "http", value
        if value == "ollama.com":
            scheme, rest = "https", "ollama.com:443"
    else:
        # As in Ollama, only a scheme in small letters brings its own port.
        default_port = {"http": 80, "https": 443}.get(scheme, OLLAMA_PORT)
    if scheme.lower() not in ("http", "https"):
        raise UserError(f"{ENV_OLLAMA_HOST}: {_mask_value(value)!r} is not a URL; give one such as {DEFAULT_OLLAMA_URL}")
    authority, _, path = rest.partition("/")
    credentials, at, address = authority.rpartition("@")
    host, port = _split_host_port(address, default_port)
    if host in ("", "0.0.0.0"):
        host = "127.0.0.1"
    elif host == "::":
        host = "::1"
    netloc = f"[{host}]" if ":" in host else host
    url = f"{scheme.lower()}://{credentials}{at}{netloc}:{port}/{path}".rstrip("/")
    return Url.parse(url, ENV_OLLAMA_HOST, DEFAULT_OLLAMA_URL).reveal()


def _split_host_port(address: str, default_port: int) -> tuple[str, int]:
    """Host without brackets, and port, as Go's ``net.SplitHostPort`` with Ollama's fallbacks."""
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](?::(.*))?", address)
    if bracketed:
        host, text = bracketed[1], bracketed[2]
    elif address.count(":") == 1:
        host, _, text = address.partition(":")
    else:
        host, text = address, None
    if text is None or not re.fullmatch(r"\+?[0-9]+", text) or int(text) > 65535:
        return host, default_port
    return host, int(text)


def from_env(name: str, default: str, environ: Mapping[str, str] = os.environ) -> str:
    return environ.get(name, "").strip() or default
