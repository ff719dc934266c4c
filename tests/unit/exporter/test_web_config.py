"""TLS and passwords, over real connections with certificates made on the spot, and every way to write the file wrongly."""

from __future__ import annotations

import asyncio
import base64
import http.client
import shutil
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import bcrypt
import pytest

from joulebench.errors import UserError
from joulebench.exporter.web_config import WebConfig
from joulebench.http_server import HttpServer
from tests.unit.exporter.serving import serving

HASH = bcrypt.hashpw(b"correct horse", bcrypt.gensalt(4)).decode()


@dataclass(frozen=True)
class Certificates:
    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """``server`` for localhost and ``client``, each signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("server", "client"):
        subprocess.run(
            [
                *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
                *("-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
                *("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt"),
            ],
            check=True,
            capture_output=True,
        )
    return Certificates(folder)


def config(folder: Path, text: str) -> WebConfig:
    path = folder / "web.yml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return WebConfig(path)


def tls(folder: Path, more: str = "") -> WebConfig:
    return config(folder, f"tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n{more}")


def trusting(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.path("server.crt"))


def status(server: HttpServer, context: ssl.SSLContext | None = None, authorization: str | None = None) -> int:
    place = urlsplit(server.url).netloc
    connection = (
        http.client.HTTPConnection(place, timeout=5)
        if context is None
        else http.client.HTTPSConnection(place, timeout=5, context=context)
    )
    try:
        connection.request("GET", "/metrics", headers={} if authorization is None else {"Authorization": authorization})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_metrics_over_tls_for_who_trusts_the_certificate(certificates: Certificates) -> None:
    with serving(tls(certificates.folder)) as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert status(server, trusting(certificates)) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            status(server, ssl.create_default_context())


def test_plain_http_and_a_stalled_handshake_do_not_hold_up_a_tls_server(certificates: Certificates) -> None:
    with serving(tls(certificates.folder)) as server:
        parts = urlsplit(server.url)
        with (
            socket.create_connection((parts.hostname, parts.port), timeout=5),
            pytest.raises((ConnectionError, http.client.HTTPException)),
        ):
            status(server)
        assert status(server, trusting(certificates)) == 200


def test_handshakes_that_never_end_stay_within_the_limit_of_connections(certificates: Certificates) -> None:
    with serving(tls(certificates.folder), max_connections=8) as server, ExitStack() as stack:
        parts = urlsplit(server.url)
        address = (parts.hostname or "", parts.port or 0)
        # More than can be accepted one by one: the server meets many of them in the same moment.
        peers = [stack.enter_context(socket.create_connection(address, timeout=5)) for _ in range(100)]
        assert status(server, trusting(certificates)) == 200
        closed = 0
        for peer in peers[:-7]:
            with suppress(ConnectionError):
                assert peer.recv(1) == b"", "a silent peer gets nothing"
            closed += 1
        assert closed == 93, "the oldest make room: seven and the request that was served are left of eight"


def test_a_client_older_than_the_least_version_is_refused(certificates: Certificates) -> None:
    context = trusting(certificates)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with serving(tls(certificates.folder)) as server:
        assert status(server, context) == 200
    with serving(tls(certificates.folder, "  min_version: TLS13\n")) as server, pytest.raises(ssl.SSLError):
        status(server, context)


def test_a_client_certificate_is_verified_where_it_is_required(certificates: Certificates) -> None:
    known = trusting(certificates)
    known.load_cert_chain(certificates.path("client.crt"), certificates.path("client.key"))
    stranger = trusting(certificates)
    stranger.load_cert_chain(certificates.path("server.crt"), certificates.path("server.key"))
    more = "  client_ca_file: client.crt\n  client_auth_type: RequireAndVerifyClientCert\n"
    with serving(tls(certificates.folder, more)) as server:
        assert status(server, known) == 200
        for context in (trusting(certificates), stranger):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                status(server, context)


def test_only_the_right_user_with_the_right_password_gets_in(tmp_path: Path) -> None:
    with serving(config(tmp_path, f"basic_auth_users:\n  ada: {HASH}\n")) as server:
        assert status(server, authorization=basic("ada", "correct horse")) == 200
        assert status(server, authorization=basic("ada", "correct horse")) == 200
        for header in (
            None,
            basic("ada", "wrong"),
            basic("ada", ""),
            basic("bob", "correct horse"),
            basic("ada", "correct horse\0"),
            basic("", ""),
            "Basic ???",
            "Basic",
            "Bearer " + basic("ada", "correct horse").split()[1],
            "Basic " + base64.b64encode(b"ada").decode(),
            "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
            basic("ada", "x" * 500),
        ):
            assert status(server, authorization=header) == 401


def test_a_password_guards_every_path_and_says_how_to_give_it(tmp_path: Path) -> None:
    with serving(config(tmp_path, f"basic_auth_users:\n  ada: {HASH}\n")) as server:
        for path in ("/", "/healthz", "/api/v1/energy", "/nothing"):
            connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=5)
            connection.request("GET", path)
            response = connection.getresponse()
            assert (response.status, response.getheader("WWW-Authenticate")) == (401, 'Basic realm="joulebench"')
            connection.close()


def test_passwords_over_tls(certificates: Certificates) -> None:
    web = tls(certificates.folder, f"basic_auth_users:\n  ada: {HASH}\n")
    with serving(web) as server:
        assert status(server, trusting(certificates)) == 401
        assert status(server, trusting(certificates), basic("ada", "correct horse")) == 200


@pytest.mark.parametrize("text", ["", "{}", "basic_auth_users:\n", "tls_server_config:\n"])
def test_a_file_that_asks_for_nothing_is_plain_http(tmp_path: Path, text: str) -> None:
    web = config(tmp_path, text)
    assert (web.tls, web.auth) == (None, None)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- a\n", "a mapping was expected, got list"),
        ("tls_server_config: [", "web.yml: while parsing"),
        (
            "http_server_config: {http2: false}\n",
            "unknown key http_server_config; served are tls_server_config, basic_auth_users",
        ),
        ("tls_server_config: {cert_file: a, key_file: b, cipher_suites: []}\n", "unknown key cipher_suites"),
        ("tls_server_config: {key_file: b}\n", "tls_server_config needs cert_file"),
        ("tls_server_config: {cert_file: a}\n", "tls_server_config needs key_file"),
        ("tls_server_config: yes\n", "a mapping was expected, got bool"),
        ("tls_server_config: {cert_file: 1, key_file: b}\n", "cert_file must be a string, got 1"),
        ("tls_server_config: {cert_file: a, key_file: b}\n", "certificate or key cannot be loaded"),
        (
            "tls_server_config: {cert_file: a, key_file: b, min_version: TLS10}\n",
            "min_version 'TLS10' is not served; use one of TLS12, TLS13",
        ),
        (
            "tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequestClientCert}\n",
            "client_auth_type 'RequestClientCert'",
        ),
        ("tls_server_config: {cert_file: a, key_file: b, client_ca_file: c}\n", "belong together"),
        (
            "tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequireAndVerifyClientCert}\n",
            "belong together",
        ),
        ("basic_auth_users: [ada]\n", "must map user names to bcrypt hashes"),
        ("basic_auth_users: {ada: 5}\n", "must map user names to bcrypt hashes"),
        ("basic_auth_users: {ada: secret}\n", "the value of 'ada' is not a bcrypt hash; make one with: htpasswd -nBC 10 ada"),
    ],
)
def test_a_file_that_cannot_be_served_is_refused_with_the_reason(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UserError) as error:
        config(tmp_path, text)
    assert complaint in str(error.value)
    assert "secret" not in str(error.value)


def test_a_missing_file_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.yml"):
        WebConfig(tmp_path / "absent.yml")


def test_passwords_without_bcrypt_are_refused_and_never_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    with pytest.raises(UserError, match=r"needs bcrypt; install it with: pip install 'joulebench\[basic-auth\]'"):
        config(tmp_path, f"basic_auth_users:\n  ada: {HASH}\n")


def test_a_reload_takes_new_users_and_a_new_certificate(certificates: Certificates, tmp_path: Path) -> None:
    for name in ("server.key", "server.crt"):
        shutil.copy(certificates.path(name), tmp_path / name)
    other = bcrypt.hashpw(b"battery staple", bcrypt.gensalt(4)).decode()
    web = tls(tmp_path, f"basic_auth_users:\n  ada: {HASH}\n")
    with serving(web) as server:
        assert status(server, trusting(certificates), basic("ada", "correct horse")) == 200
        for name in ("key", "crt"):
            shutil.copy(certificates.path(f"client.{name}"), tmp_path / f"server.{name}")
        text = (tmp_path / "web.yml").read_text(encoding="utf-8").replace(HASH, other)
        (tmp_path / "web.yml").write_text(text, encoding="utf-8")
        web.reload()
        renewed = ssl.create_default_context(cafile=certificates.path("client.crt"))
        assert status(server, renewed, basic("ada", "battery staple")) == 200
        assert status(server, renewed, basic("ada", "correct horse")) == 401


def test_a_reload_answers_the_requests_that_wait_for_bcrypt(tmp_path: Path) -> None:
    web = config(tmp_path, f"basic_auth_users:\n  ada: {HASH}\n")

    async def answers() -> list[bool]:
        before = web.auth
        assert before is not None
        waiting = [asyncio.create_task(before.allow(basic("ada", "correct horse"), "10.0.0.1")) for _ in range(20)]
        await asyncio.sleep(0)
        web.reload()
        assert web.auth is not before
        return await asyncio.wait_for(asyncio.gather(*waiting), timeout=10.0)

    assert asyncio.run(answers()) == [True] * 20
    web.close()


def test_a_reload_of_a_broken_file_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    web = config(tmp_path, f"basic_auth_users:\n  ada: {HASH}\n")
    with serving(web) as server:
        (tmp_path / "web.yml").write_text("basic_auth_users: {ada: secret}\n", encoding="utf-8")
        web.reload()
        assert status(server, authorization=basic("ada", "correct horse")) == 200
    assert "not reloaded" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o640, False), (0o600, False)])
def test_a_file_with_hashes_that_every_user_can_read_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    (tmp_path / "web.yml").write_text(f"basic_auth_users:\n  ada: {HASH}\n", encoding="utf-8")
    (tmp_path / "web.yml").chmod(mode)
    WebConfig(tmp_path / "web.yml").close()
    assert ("chmod o-r" in caplog.text) is warned
