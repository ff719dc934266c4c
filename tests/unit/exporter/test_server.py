"""The server over real sockets: paths, methods, keep-alive, compression, name[], and peers that behave badly."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import pytest

from joulebench import __version__
from joulebench.energy.window import WindowEnergy
from joulebench.errors import UserError
from joulebench.gpu.reading import GpuIdentity
from joulebench.http_server import HttpServer
from tests.unit.exporter.serving import serving
from tests.unit.exporter.snapshots import NOW, Windows

TWO = "/metrics?name[]=joulebench_gpu_energy_joules_total&name[]=joulebench_gpu_energy_sample_timestamp_seconds"


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with serving() as running:
        yield running


@pytest.fixture
def http(server: HttpServer) -> Iterator[HTTPConnection]:
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=5)
    yield connection
    connection.close()


def ask(http: HTTPConnection, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
    http.request(method, path, headers={key.replace("_", "-"): value for key, value in headers.items()})
    response = http.getresponse()
    return response, response.read()


def test_metrics_are_text_that_prometheus_takes(http: HTTPConnection) -> None:
    response, body = ask(http, "/metrics")
    assert response.status == 200
    assert response.getheader("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    assert b"joulebench_gpu_power_watts{" in body
    assert b"process_resident_memory_bytes " in body


def test_openmetrics_is_given_to_who_asks_for_it(http: HTTPConnection) -> None:
    response, body = ask(http, "/metrics", Accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert (response.getheader("Content-Type") or "").startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_only_the_named_families_are_given(http: HTTPConnection) -> None:
    _, body = ask(http, TWO)
    lines = [line for line in body.decode().splitlines() if not line.startswith("#")]
    assert [line.partition("{")[0] for line in lines] == [
        "joulebench_gpu_energy_joules_total",
        "joulebench_gpu_energy_sample_timestamp_seconds",
    ]


def test_a_large_answer_to_another_machine_is_compressed_when_asked_and_says_so() -> None:
    with serving(host="0.0.0.0") as server:
        port = urlsplit(server.url).port
        # Another address of this machine stands for another machine.
        connection = HTTPConnection("127.0.0.1", port, timeout=5, source_address=("127.0.0.2", 0))
        response, packed = ask(connection, "/metrics", Accept_Encoding="gzip")
        assert response.getheader("Content-Encoding") == "gzip"
        response, plain = ask(connection, "/metrics")
        assert response.getheader("Content-Encoding") is None
        connection.close()
    assert b"joulebench_gpu_power_watts{" in gzip.decompress(packed)
    assert len(packed) < len(plain) / 3


def test_nothing_is_compressed_for_this_machine_itself(http: HTTPConnection) -> None:
    response, body = ask(http, "/metrics", Accept_Encoding="gzip")
    assert response.getheader("Content-Encoding") is None
    assert response.getheader("Vary") == "Accept-Encoding"
    assert b"joulebench_gpu_power_watts{" in body


def test_the_small_answer_of_the_fast_scrape_is_not_compressed(http: HTTPConnection) -> None:
    response, body = ask(http, TWO, Accept_Encoding="gzip")
    assert response.getheader("Content-Encoding") is None
    assert len(body) < 1024


def test_health_and_landing_page(http: HTTPConnection) -> None:
    response, body = ask(http, "/healthz")
    assert (response.status, body) == (200, b"ok\n")
    response, body = ask(http, "/")
    assert (response.status, response.getheader("Content-Type")) == (200, "text/html; charset=utf-8")
    for part in (__version__, "simulated", 'href="/metrics"', 'href="/healthz"', "/api/v1/energy"):
        assert part in body.decode()


def test_the_energy_api_answers_json_right_or_wrong(http: HTTPConnection) -> None:
    response, body = ask(http, f"/api/v1/energy?start={NOW - 5}&end={NOW}")
    assert (response.status, response.getheader("Content-Type")) == (200, "application/json")
    assert json.loads(body)["source"] == "simulated"
    response, body = ask(http, "/api/v1/energy?start=1")
    assert (response.status, response.getheader("Content-Type")) == (400, "application/json")
    assert json.loads(body)["error"] == "end is missing; give it in unix seconds"


def post(http: HTTPConnection, body: bytes) -> tuple[int, Any]:
    http.request("POST", "/api/v1/energy", body)
    response = http.getresponse()
    text = response.read()
    return response.status, json.loads(text) if response.getheader("Content-Type") == "application/json" else text


def test_many_windows_are_answered_in_one_request_each_right_or_wrong(http: HTTPConnection) -> None:
    status, answer = post(http, f"start={NOW - 5}&end={NOW}&cuts=1.5\nstart=1\nstart={NOW - 4}&end={NOW - 3}".encode())
    assert status == 200
    assert [one["status"] for one in answer["answers"]] == [200, 400, 200]
    right, wrong, other = (one["body"] for one in answer["answers"])
    assert (right["start"], right["end"], other["start"], other["end"]) == (NOW - 5, NOW, NOW - 4, NOW - 3)
    assert wrong["error"] == "end is missing; give it in unix seconds"
    assert right["clock"] == wrong["clock"] == other["clock"]


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (b"start=1&end=2\n" * 501, 400), (b"\xff\xfe" * 8, 200), (b"x" * (1 << 20), 413)]
)
def test_a_request_for_no_window_or_too_many_is_refused(http: HTTPConnection, body: bytes, status: int) -> None:
    assert post(http, body)[0] == status


def test_an_unknown_path_is_a_404_that_names_the_known_ones(http: HTTPConnection) -> None:
    response, body = ask(http, "/metric")
    assert response.status == 404
    assert b"/metrics" in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_a_405_that_says_what_is_allowed(http: HTTPConnection, method: str) -> None:
    response, _ = ask(http, "/metrics", method)
    assert (response.status, response.getheader("Allow")) == (405, "GET,HEAD")


def test_head_gives_the_headers_alone(http: HTTPConnection) -> None:
    response, body = ask(http, "/healthz", "HEAD")
    assert (response.status, response.getheader("Content-Length"), body) == (200, "3", b"")


def test_one_connection_serves_many_requests(http: HTTPConnection) -> None:
    ask(http, "/healthz")
    assert http.sock is not None
    port = http.sock.getsockname()[1]
    for _ in range(5):
        ask(http, "/metrics")
        assert http.sock is not None
        assert http.sock.getsockname()[1] == port


def test_the_body_of_a_request_is_never_taken_for_the_next_request(server: HttpServer) -> None:
    inner = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with raw(server) as peer:
        peer.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner)
        answer = everything_from(peer)
    assert answer.count(b"HTTP/1.1") == 1
    assert b" 405 " in answer


def test_a_peer_that_says_nothing_or_nonsense_does_not_hold_up_others(server: HttpServer, http: HTTPConnection) -> None:
    with raw(server), raw(server) as nonsense:
        nonsense.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert everything_from(nonsense).startswith(b"HTTP/1.0 400 ")
        assert ask(http, "/healthz")[0].status == 200


def test_a_target_that_is_no_url_is_a_400(server: HttpServer) -> None:
    with raw(server) as peer:
        peer.sendall(b"GET http://[oops/metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b" 400 " in everything_from(peer)


def test_a_further_connection_closes_the_oldest_idle_one() -> None:
    with serving(max_connections=2) as server, raw(server) as first, raw(server) as second:
        for peer in (first, second):
            peer.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert peer.recv(12) == b"HTTP/1.1 200"
        assert is_served(server)
        assert everything_from(first).endswith(b"ok\n"), "the oldest ends after its answer"
        second.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert everything_from(second).count(b"HTTP/1.1 200") == 1


def test_peers_that_only_hold_connections_never_keep_a_request_out() -> None:
    with serving(max_connections=8) as server, ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(raw(server)).sendall(b"GET /metrics HTTP/1.1\r\nX: ")
            assert is_served(server)


def test_a_head_that_takes_too_long_ends_its_connection() -> None:
    with serving(head_seconds=0.3) as server, raw(server) as silent, raw(server) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nX-Long: ")
        for peer in (silent, slow):
            with suppress(ConnectionError):
                assert everything_from(peer) == b""
        with raw(server) as peer:
            peer.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert peer.recv(12) == b"HTTP/1.1 200"


def test_too_many_names_are_a_400(http: HTTPConnection) -> None:
    response, body = ask(http, "/metrics?" + "&".join(f"name[]=n{index}" for index in range(300)))
    assert (response.status, body) == (400, b"300 name[] parameters; at most 256 are answered\n")


class Broken(Windows):
    def window(self, start_unix: float, end_unix: float) -> Sequence[tuple[GpuIdentity, WindowEnergy]]:
        raise RuntimeError(f"no window from {start_unix} to {end_unix}")


def test_a_failure_inside_is_a_500_whose_reason_is_in_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    with serving(windows=Broken()) as server:
        connection = HTTPConnection(urlsplit(server.url).netloc, timeout=5)
        response, body = ask(connection, f"/api/v1/energy?start={NOW - 5}&end={NOW}")
        connection.close()
    assert (response.status, body) == (500, b"internal error, see the exporter's log\n")
    assert "RuntimeError: no window from" in caplog.text


def test_a_port_in_use_says_what_to_do(server: HttpServer) -> None:
    port = urlsplit(server.url).port
    assert port is not None
    complaint = rf"cannot listen on 127.0.0.1:{port}: Address already in use; choose another address, or port 0"
    with pytest.raises(UserError, match=complaint), serving(port=port):
        pytest.fail("two servers on one port")


def test_an_ipv6_address_is_shown_in_brackets() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 in this Python")
    try:
        with serving(host="::1") as server:
            assert server.url.startswith("http://[::1]:")
    except UserError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")


def raw(server: HttpServer) -> socket.socket:
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=5)


def is_served(server: HttpServer) -> bool:
    try:
        with raw(server) as peer:
            peer.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return everything_from(peer).startswith(b"HTTP/1.1 200")
    except ConnectionError:
        return False


def everything_from(peer: socket.socket) -> bytes:
    pieces = []
    while piece := peer.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)
