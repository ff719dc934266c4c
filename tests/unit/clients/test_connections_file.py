"""Credentials, tenants and certificates: right ones are used by every client, wrong ones end in a message that says what to do.

The server is a real TLS server of this machine, with certificates made for the test by openssl.
"""

from __future__ import annotations

import json
import logging
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from joulebench import Run
from joulebench.cli import main
from joulebench.clients.exporter import ExporterApi
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clients.pushgateway import Pushgateway
from joulebench.errors import EnergyApiError, GatewayError, JoulebenchError, PrometheusError, UserError
from joulebench.settings import Endpoints, Url, connection_settings, load_connections
from joulebench.units import Seconds
from tests.certificates import Certificates
from tests.unit.push.conftest import events

SECRET = "s3cr3t-value"
ANSWER = json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}})


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@dataclass
class Gate:
    """What a server wants, and what it was asked."""

    authorization: str = ""
    tenant: str = ""
    url: str = ""
    seen: list[dict[str, str]] = field(default_factory=list)

    def refusal(self, headers: dict[str, str]) -> tuple[int, str] | None:
        if self.tenant and not headers.get("x-scope-orgid"):
            return 401, "no org id"
        if self.tenant and headers.get("x-scope-orgid") != self.tenant:
            return 403, "not your tenant"
        if self.authorization and headers.get("authorization") != self.authorization:
            return 401, "unauthorized"
        return None


@contextmanager
def serving(gate: Gate, context: ssl.SSLContext | None = None) -> Iterator[Gate]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 3.0

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            gate.seen.append(headers)
            status, body = gate.refusal(headers) or (200, ANSWER)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def do_PUT(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that does not trust the server ends the handshake."""

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        # The handshake is made by the thread of the peer, not by the one that accepts.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    gate.url = f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_port}"
    try:
        yield gate
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def tls(certificates: Certificates, name: str = "server", *, wants_client: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates[name], certificates[f"{name}-key"])
    if wants_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates["ca"])
    return context


def ask_prometheus(url: str) -> None:
    api = PrometheusApi(url, timeout=3.0, patience=5.0)
    try:
        api.query("up")
    finally:
        api.close()


def delete_group(url: str) -> None:
    gateway = Pushgateway(url, timeout=3.0)
    try:
        gateway.delete({"job": "joulebench"})
    finally:
        gateway.close()


def ask_exporter(url: str) -> None:
    api = ExporterApi(url, timeout=3.0)
    try:
        api.energy(Seconds(1.0), Seconds(2.0))
    except EnergyApiError as error:
        # The server answers no energies; that it let the client in is what counts.
        if "cannot be read" not in str(error):
            raise
    finally:
        api.close()


CLIENTS: dict[str, tuple[Callable[[str], None], type[JoulebenchError]]] = {
    "prometheus": (ask_prometheus, PrometheusError),
    "pushgateway": (delete_group, GatewayError),
    "exporter": (ask_exporter, EnergyApiError),
}


@pytest.fixture(params=CLIENTS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def connect(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Connects the client of ``server`` to a URL with the settings of a connections file."""

    def with_settings(url: str, text: str) -> None:
        path = tmp_path / "connections.yml"
        path.write_text(f"{server}: {{{text}}}\n")
        monkeypatch.setenv("JOULEBENCH_CONNECTIONS_FILE", str(path))
        CLIENTS[server][0](url)

    return with_settings


def test_a_bearer_token_is_read_again_from_its_file(server: str, connect: Callable[[str, str], None], tmp_path: Path) -> None:
    token = tmp_path / "token"
    with serving(Gate(authorization=f"Bearer {SECRET}")) as gate:
        for content, passes in (("old", False), (f"{SECRET}\n", True), ("revoked", False)):
            token.write_text(content)
            if passes:
                connect(gate.url, "bearer_token_file: token")
                continue
            with pytest.raises(CLIENTS[server][1], match=r"does not accept the bearer token in .*token") as caught:
                connect(gate.url, "bearer_token_file: token")
            assert content not in str(caught.value).replace(str(token), "")


def test_a_token_that_changes_while_a_client_is_open_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text("one")
    monkeypatch.setenv("JOULEBENCH_PROMETHEUS_BEARER_TOKEN_FILE", str(token))
    with serving(Gate()) as gate:
        api = PrometheusApi(gate.url, patience=0.0)
        api.query("up")
        token.write_text("two")
        api.query("up")
        token.unlink()
        with pytest.raises(PrometheusError, match="token cannot be read"):
            api.query("up")
        api.close()
    assert [headers["authorization"] for headers in gate.seen] == ["Bearer one", "Bearer two"]


def test_basic_authentication(server: str, connect: Callable[[str, str], None], tmp_path: Path) -> None:
    (tmp_path / "password").write_text("pass wörd\n")
    with serving(Gate(authorization="Basic dXNlcjpwYXNzIHfDtnJk")) as gate:
        connect(gate.url, "basic_auth: {username: user, password_file: password}")
        connect(gate.url, "basic_auth: {username: user, password: pass wörd}")
        with pytest.raises(CLIENTS[server][1], match="does not accept the username and password") as caught:
            connect(gate.url, f"basic_auth: {{username: user, password: {SECRET}}}")
        assert SECRET not in str(caught.value)
        with pytest.raises(CLIENTS[server][1], match="wants credentials: give basic_auth or bearer_token_file"):
            connect(gate.url, "")


def test_a_tenant(server: str, connect: Callable[[str, str], None]) -> None:
    with serving(Gate(tenant="team-a")) as gate:
        connect(gate.url, "tenant: team-a")
        with pytest.raises(CLIENTS[server][1], match="wants a tenant: give it as tenant"):
            connect(gate.url, "")
        with pytest.raises(CLIENTS[server][1], match="403 not your tenant"):
            connect(gate.url, "tenant: team-b")
        connect(gate.url, "tenant: team-a, tenant_header: x-scope-orgid")


def test_a_private_authority(server: str, connect: Callable[[str, str], None], certificates: Certificates) -> None:
    error = CLIENTS[server][1]
    with serving(Gate(), tls(certificates)) as gate:
        connect(gate.url, f"ca_file: {certificates['ca']}")
        for settings in ("", f"ca_file: {certificates['other-ca']}"):
            with pytest.raises(error, match="unknown authority: give the authority's file as ca_file"):
                connect(gate.url, settings)
        with pytest.raises(error, match=r"speaks TLS|EOF|closed|reset|Connection aborted|disconnected|timed out"):
            connect(gate.url.replace("https", "http"), "timeout_seconds: 1")
    with serving(Gate(), tls(certificates, "misnamed")) as gate, pytest.raises(error, match="certificate is for another name"):
        connect(gate.url, f"ca_file: {certificates['ca']}")
    with serving(Gate()) as gate, pytest.raises(error, match="speaks plain HTTP: give its URL with http://"):
        connect(gate.url.replace("http", "https"), "")


def test_a_client_certificate(server: str, connect: Callable[[str, str], None], certificates: Certificates) -> None:
    error = CLIENTS[server][1]
    ca = f"ca_file: {certificates['ca']}"

    def pair(certificate: str, key: str) -> str:
        return f"{ca}, client_cert_file: {certificates[certificate]}, client_key_file: {certificates[key]}"

    with serving(Gate(), tls(certificates, wants_client=True)) as gate:
        connect(gate.url, pair("client", "client-key"))
        with pytest.raises(
            error, match=r"(wants a certificate of the client,|wants a certificate of the client:) give client_cert_file"
        ):
            connect(gate.url, ca)
        with pytest.raises(error, match=r"(does not trust|may not accept) the client's certificate"):
            connect(gate.url, pair("other-client", "other-client-key"))
        with pytest.raises(error, match="client_key_file is not the key of client_cert_file"):
            connect(gate.url, pair("client", "server-key"))
        with pytest.raises(error, match="not in PEM format"):
            connect(gate.url, f"{ca}, client_cert_file: connections.yml")


def test_a_secret_is_sent_to_its_own_server_only(
    server: str, connect: Callable[[str, str], None], certificates: Certificates
) -> None:
    with serving(Gate()) as gate, serving(Gate()) as other:
        connect(other.url, f"url: '{gate.url}', bearer_token: {SECRET}, tenant: t")
        assert "authorization" not in other.seen[0]
        assert "x-scope-orgid" not in other.seen[0]
        connect(f"{gate.url}/prefix", f"url: '{gate.url}', bearer_token: {SECRET}")
        assert gate.seen[0]["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[prometheus]", "sections prometheus, pushgateway, exporter"),
        ("grafana: {url: 'http://g'}", "sections prometheus, pushgateway, exporter"),
        ("prometheus: http://p", "must hold settings"),
        ("prometheus: {bearer_tokn: s3cr3t-value}", "there is no setting 'bearer_tokn'; there are url"),
        ("prometheus: {url: 'p:9090'}", "prometheus: url: 'p:9090' is not a URL"),
        ("prometheus: {bearer_token_file: /nowhere/token}", "bearer_token_file: /nowhere/token cannot be read"),
        ("prometheus: {basic_auth: {password: s3cr3t-value}}", "basic_auth must hold username"),
        ("prometheus: {basic_auth: {username: u}, bearer_token: s3cr3t-value}", "not both"),
        ("prometheus: {bearer_token: [s3cr3t-value]}", "bearer_token must be a text"),
        ('prometheus: {bearer_token: "s3cr3t-value\\n"}', ""),
        ('prometheus: {bearer_token: "s3cr3t\\nvalue"}', "bearer_token must be a text of printable characters"),
        ("prometheus: {timeout_seconds: -1}", "timeout_seconds must be a number above 0"),
        ("prometheus: {timeout_seconds: .nan}", "timeout_seconds must be a number above 0"),
        ("prometheus: {client_key_file: connections.yml}", "client_key_file needs client_cert_file"),
        ("prometheus: {tenant: a, tenant_header: 'X: y'}", "name of an HTTP header"),
        ("prometheus: {bearer_token: 's3cr3t-value", "is not YAML"),
    ],
)
def test_a_bad_file_is_refused_by_the_name_of_the_setting(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "connections.yml"
    path.write_text(text)
    if not words:
        assert load_connections(path)["prometheus"].bearer_token == SECRET
        return
    with pytest.raises(UserError, match=words) as caught:
        load_connections(path)
    assert SECRET not in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "connections.yml"
    path.write_text("prometheus: {url: 'https://p/x', tenant: a, bearer_token: b, timeout_seconds: 7}\n")
    environ = {"JOULEBENCH_CONNECTIONS_FILE": str(path), "JOULEBENCH_PROMETHEUS_TENANT": "c"}
    found = connection_settings("prometheus", environ)
    assert (found.tenant, found.bearer_token, found.timeout_seconds) == ("c", "b", 7.0)
    assert connection_settings("exporter", environ).tenant == ""
    assert str(Endpoints.from_settings(environ=environ).prometheus) == "https://p/x"
    assert str(Endpoints.from_settings(prometheus_url="http://q", environ=environ).prometheus) == "http://q"


def test_settings_print_without_secrets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "connections.yml"
    path.write_text(
        f"prometheus: {{url: 'https://u:{SECRET}@p', bearer_token: {SECRET}}}\n"
        f"exporter: {{basic_auth: {{username: u, password: {SECRET}}}}}\n"
    )
    with caplog.at_level(logging.INFO):
        logging.getLogger("t").info("%s %r", load_connections(path), list(load_connections(path).values()))
    assert SECRET not in caplog.text


def test_a_run_pushes_with_its_credentials_and_shows_them_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), serving(Gate(authorization=f"Bearer {SECRET}")) as gate:
        url = gate.url.replace("//", f"//user:{SECRET}@")
        with (
            Run(model="m", runs_dir=tmp_path, gateway_url=url, prometheus_url=url, exporter_url=url, drain_seconds=0.5) as run,
            run.task("t"),
        ):
            pass
    (state,) = events(run.directory, "PUSH_STATE")
    assert any("does not accept the username and password" in reason for reason in state["reasons"])
    written = "".join(path.read_text() for path in run.directory.rglob("*") if path.is_file())
    assert SECRET not in written + caplog.text


def test_commands_take_the_file_by_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOULEBENCH_PROMETHEUS_URL")
    path = tmp_path / "connections.yml"
    with Run(model="m", run_id="r", runs_dir=tmp_path, gateway_url="none", exporter_url="none") as run, run.task("t"):
        pass
    with serving(Gate(authorization=f"Bearer {SECRET}")) as gate:
        path.write_text(f"prometheus: {{url: '{gate.url}', bearer_token: wrong-{SECRET}}}\n")
        export = ["export", "--run-id", "r", "--runs-dir", str(tmp_path), "--connections.file", str(path)]
        main(export)
        shown = capsys.readouterr()
        assert "does not accept the bearer token given" in shown.err + shown.out
        assert SECRET not in shown.err + shown.out
        path.write_text("prometheus: {bearer: x}\n")
        assert main(export) == 2
        assert "there is no setting 'bearer'" in capsys.readouterr().err
    assert Url.parse("http://h", "x").base == "http://h"
