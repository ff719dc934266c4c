"""``--web.config.file``: TLS and basic authentication, in the part of exporter-toolkit's format that is served here.

    tls_server_config: {cert_file, key_file, client_ca_file, client_auth_type, min_version}
    basic_auth_users: {USER: BCRYPT_HASH}

A key that is not served is an error, never ignored: a setting that looks safe and does nothing would be worse than none.
Paths are relative to the file.
"""

from __future__ import annotations

import logging
import ssl
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from joulebench.errors import UserError
from joulebench.exporter.auth import BasicAuth
from joulebench.files import load_yaml

log = logging.getLogger(__name__)

_TLS_KEYS = ("cert_file", "key_file", "client_ca_file", "client_auth_type", "min_version")
_CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}


class WebConfig:
    """TLS and basic authentication of a server. ``tls`` None: plain HTTP. ``auth`` None: no password asked.

    ``path`` None: neither. Raises UserError for a file that cannot be read, is no such configuration, or names files that do
    not work.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.tls: ssl.SSLContext | None = None
        self.auth: BasicAuth | None = None
        if path is not None:
            self._load(path)

    def reload(self) -> None:
        """Reads the file and its certificate again; what is wrong with them is logged, and then everything stays as it was."""
        if self._path is None:
            return
        try:
            self._load(self._path)
        except UserError as error:
            log.error("not reloaded: %s", error)
        else:
            log.info("reloaded %s", self._path)

    def close(self) -> None:
        if self.auth is not None:
            self.auth.close()

    def _load(self, path: Path) -> None:
        try:
            content = load_yaml(path)
        except (OSError, ValueError) as error:
            raise UserError(f"--web.config.file {path}: {error}") from error
        top = _mapping({} if content is None else content, f"--web.config.file {path}", ("tls_server_config", "basic_auth_users"))
        where = f"--web.config.file {path}: "
        tls_config = top.get("tls_server_config")
        users = top.get("basic_auth_users")
        tls = None
        if tls_config is not None:
            settings = _mapping(tls_config, where + "tls_server_config", _TLS_KEYS)
            tls = _tls(settings, path.parent, where)
            _warn_if_readable(path.parent / settings["key_file"])
        auth = BasicAuth(_hashes(users, where), where) if users else None
        if users:
            _warn_if_readable(path)
        # The auth before is not closed: requests that wait for its bcrypt get their answer, and then its thread ends by itself.
        self.tls, self.auth = tls, auth


def _warn_if_readable(path: Path) -> None:
    """Warns about a private key, or a file with password hashes, that other users of this machine can read."""
    with suppress(OSError):
        if path.stat().st_mode & stat.S_IROTH:
            log.warning("%s is readable by every user of this machine; run: chmod o-r %s", path, path)


def _tls(given: Mapping[str, Any], folder: Path, where: str) -> ssl.SSLContext:
    for key in ("cert_file", "key_file"):
        if not given.get(key):
            raise UserError(f"{where}tls_server_config needs {key}")
    for key, value in given.items():
        if not isinstance(value, str):
            raise UserError(f"{where}{key} must be a string, got {value!r}")
    auth = given.get("client_auth_type", "NoClientCert")
    if auth not in _CLIENT_AUTH:
        raise UserError(f"{where}client_auth_type {auth!r} is not served; use one of {', '.join(_CLIENT_AUTH)}")
    version = given.get("min_version", "TLS12")
    if version not in _VERSIONS:
        raise UserError(f"{where}min_version {version!r} is not served; use one of {', '.join(_VERSIONS)}")
    authority = given.get("client_ca_file")
    if bool(authority) != (_CLIENT_AUTH[auth] is not ssl.CERT_NONE):
        raise UserError(f"{where}client_ca_file and a client_auth_type that verifies belong together; give both or neither")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[version]
    try:
        context.load_cert_chain(folder / given["cert_file"], folder / given["key_file"])
        if authority:
            context.load_verify_locations(folder / authority)
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"{where}certificate or key cannot be loaded: {error}") from error
    context.verify_mode = _CLIENT_AUTH[auth]
    return context


def _hashes(users: object, where: str) -> dict[str, str]:
    if not isinstance(users, Mapping) or not all(isinstance(item, str) for pair in users.items() for item in pair):
        raise UserError(f"{where}basic_auth_users must map user names to bcrypt hashes, all of them strings")
    return dict(users)


def _mapping(value: object, where: str, known: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: a mapping was expected, got {type(value).__name__}")
    unknown = [str(key) for key in value if key not in known]
    if unknown:
        raise UserError(f"{where}: unknown key {', '.join(unknown)}; served are {', '.join(known)}")
    return value
