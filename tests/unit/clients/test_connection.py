"""All clients share one connection: what the environment says counts, and no server can hold a client up or fill its memory."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from joulebench.clients.connection import HttpClient, RequestFailed
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clients.session import PatientRetry, open_session
from joulebench.clock import SystemClock
from joulebench.errors import QueryRefused
from joulebench.settings import Url

SECRET = "s3cr3t"


@contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def send(handler: BaseHTTPRequestHandler, body: bytes, *, length: int | None = None, encoding: str | None = None) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    if encoding:
        handler.send_header("Content-Encoding", encoding)
    handler.end_headers()
    handler.wfile.write(body)


def client(url: str, **options: float) -> HttpClient:
    return HttpClient(
        Url.parse(url, "--url"),
        2.0,
        max_bytes=int(options.get("max_bytes", 1 << 20)),
        max_seconds=options.get("max_seconds", 5.0),
    )


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    return monkeypatch


def test_only_this_machine_is_reached_around_a_proxy(environment: pytest.MonkeyPatch) -> None:
    def seen(handler: BaseHTTPRequestHandler) -> None:
        paths.append(handler.path)
        send(handler, b"by the proxy")

    paths: list[str] = []
    with server(seen) as proxy, server(lambda handler: send(handler, b"direct")) as local:
        environment.setenv("http_proxy", proxy)
        environment.setenv("no_proxy", "left.example")
        assert client("http://metrics.example:9090").request("GET", "/api").body == b"by the proxy"
        assert client(local).request("GET", "/").body == b"direct"
        assert client(local.replace("127.0.0.1", "localhost")).request("GET", "/").body == b"direct"
    assert paths == ["http://metrics.example:9090/api"]
    assert open_session(Url.parse("http://left.example", "--url")).proxies == {}


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_a_ca_bundle_of_the_environment_is_used(environment: pytest.MonkeyPatch, name: str) -> None:
    assert open_session(Url.parse("https://h", "--url")).verify is True
    environment.setenv(name, "/etc/private-ca.pem")
    assert open_session(Url.parse("https://h", "--url")).verify == "/etc/private-ca.pem"
    assert open_session(Url.parse("https://127.0.0.1", "--url")).verify == "/etc/private-ca.pem", "for this machine too"


def test_credentials_come_from_the_url_or_from_netrc(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def seen(handler: BaseHTTPRequestHandler) -> None:
        authorizations.append(handler.headers.get("Authorization"))
        send(handler, b"")

    authorizations: list[str | None] = []
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login n password q\n")
    with server(seen) as url:
        client(url).request("GET", "/")
        environment.setenv("NETRC", str(tmp_path / "netrc"))
        client(url).request("GET", "/")
        client(url.replace("//", "//u:p%40@")).request("GET", "/")
    assert authorizations == [None, "Basic bjpx", "Basic dTpwQA=="]


def test_a_failure_names_no_credentials() -> None:
    with pytest.raises(RequestFailed, match="Connection refused") as caught:
        client(f"http://user:{SECRET}@127.0.0.1:9").request("GET", "/")
    assert SECRET not in str(caught.value)


def test_a_large_response_is_refused() -> None:
    with (
        server(lambda handler: send(handler, b"x" * 3_000_000)) as url,
        pytest.raises(RequestFailed, match="more than 1048576 bytes"),
    ):
        client(url).request("GET", "/")


def test_a_small_response_that_unpacks_to_a_large_one_is_refused() -> None:
    bomb = gzip.compress(b"\0" * 200_000_000, 9)
    with (
        server(lambda handler: send(handler, bomb, encoding="gzip")) as url,
        pytest.raises(RequestFailed, match="more than 1048576 bytes"),
    ):
        client(url).request("GET", "/")


def test_a_response_that_drips_is_given_up() -> None:
    release = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        with suppress(OSError):
            while not release.wait(0.05):
                handler.wfile.write(b"x")
                handler.wfile.flush()

    clock = SystemClock()
    start = clock.monotonic()
    with server(drip) as url:
        with pytest.raises(RequestFailed, match=r"not complete after 0\.5 s"):
            client(url, max_seconds=0.5).request("GET", "/")
        release.set()
    assert clock.monotonic() - start < 3.0


def test_a_response_that_breaks_off_is_no_response() -> None:
    with server(lambda handler: send(handler, b"half", length=8)) as url, pytest.raises(RequestFailed):
        client(url).request("GET", "/")


def test_what_speaks_no_http_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def talk() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")

        thread = threading.Thread(target=talk)
        thread.start()
        with pytest.raises(RequestFailed, match=r"SSH-2\.0"):
            client(f"http://127.0.0.1:{listening.getsockname()[1]}").request("GET", "/")
        thread.join()


def test_retries_pause_longer_and_longer_and_end() -> None:
    class Time(SystemClock):
        now = 0.0
        waits: list[float] = []  # noqa: RUF012

    time = Time()
    time.monotonic = lambda: time.now  # type: ignore[assignment,return-value]

    def wait(seconds: float) -> None:
        time.waits.append(seconds)
        time.now += seconds

    statuses = [503, 502, 504, 200]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(statuses.pop(0))
        handler.send_header("Retry-After", "3600")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with server(answer) as url:
        patient = HttpClient(Url.parse(url, "--url"), 2.0, retries=lambda: PatientRetry(patience=5.0, clock=time, wait=wait))
        assert patient.request("GET", "/").status == 200
        assert time.waits == [0.1, 0.2, 0.4], "a server's own idea of an hour is not followed"


def test_a_server_cannot_write_control_characters_to_a_terminal() -> None:
    def hostile(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(500)
        body = b"\x1b]0;owned\x07\x1b[2Jgone\x00\xff http://user:s3cr3t@h/"
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with server(hostile) as url:
        response = client(url).request("GET", "/")
    assert response.shown_text.isprintable()
    assert SECRET not in response.shown_text


def test_errors_and_warnings_of_prometheus_are_printable() -> None:
    def refuse(handler: BaseHTTPRequestHandler) -> None:
        status, content = answers.pop(0)
        body = json.dumps(content).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    answers = [
        (422, {"status": "error", "error": "too \x1b[31mmany\ud800"}),
        (200, {"status": "success", "data": {"resultType": "vector", "result": []}, "warnings": ["odd\x1b[2J"] * 1000}),
    ]
    with server(refuse) as url:
        api = PrometheusApi(url, patience=0.0)
        with pytest.raises(QueryRefused, match="many") as caught:
            api.query("up")
        api.query("up")
        api.close()
    assert str(caught.value).isprintable()
    assert all(warning.isprintable() for warning in api.warnings)
