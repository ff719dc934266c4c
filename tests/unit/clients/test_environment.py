"""Proxies and credentials of the environment count for every client, and only this machine is reached around a proxy."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from joulebench.clients.exporter import ExporterApi
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clients.pushgateway import Pushgateway
from joulebench.clock import SystemClock
from joulebench.errors import EnergyApiError, JoulebenchError
from joulebench.llm.http import ModelServerHttp
from joulebench.ollama.inventory import OllamaApi
from joulebench.ollama.models import OllamaModels
from joulebench.stack.process import answers
from joulebench.units import Seconds
from tests.unit.proxy.conftest import served

ANSWER = json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}}).encode()


class Listener:
    def __init__(self) -> None:
        self.targets: list[str] = []
        self.authorizations: list[str | None] = []
        self.url = ""


@contextmanager
def listening() -> Iterator[Listener]:
    """Answers every request, as a server or as a proxy, and keeps the targets: those of a proxy are whole URLs."""
    listener = Listener()

    class Handler(BaseHTTPRequestHandler):
        timeout = 3.0

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            listener.targets.append(self.path)
            listener.authorizations.append(self.headers.get("Authorization"))
            self.send_response(200)
            self.send_header("Content-Length", str(len(ANSWER)))
            self.end_headers()
            self.wfile.write(ANSWER)

        def do_POST(self) -> None:
            self.do_GET()

        def do_PUT(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    listener.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield listener
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask_prometheus(url: str) -> None:
    api = PrometheusApi(url, patience=0.0)
    api.query("up")
    api.close()


def ask_gateway(url: str) -> None:
    gateway = Pushgateway(url)
    gateway.delete({"job": "joulebench"})
    gateway.close()


def ask_exporter(url: str) -> None:
    api = ExporterApi(url)
    with pytest.raises(EnergyApiError, match="cannot be read"):
        api.energy(Seconds(1.0), Seconds(2.0))
    api.close()


def ask_ollama(url: str) -> None:
    api = OllamaApi(url)
    api.inventory()
    api.close()


def load_model(url: str) -> None:
    models = OllamaModels(url)
    models.load("m", 5.0)
    models.close()


def ask_model_server(url: str) -> None:
    clock = SystemClock()
    with ModelServerHttp(url, clock).post("/v1/chat/completions", {}, Seconds(clock.monotonic() + 5.0)) as reply:
        list(reply.chunks)


def ask_through_our_proxy(url: str) -> None:
    with served(url) as proxy:
        requests.post(f"{proxy.url}/api/chat", json={"model": "m"}, timeout=5, proxies={"http": "", "no_proxy": "*"}).close()


CLIENTS: dict[str, Callable[[str], None]] = {
    "prometheus": ask_prometheus,
    "pushgateway": ask_gateway,
    "exporter": ask_exporter,
    "ollama inventory": ask_ollama,
    "ollama models": load_model,
    "model server": ask_model_server,
    "metering proxy": ask_through_our_proxy,
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*urllib.request.getproxies_environment(), "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("name", CLIENTS)
def test_another_machine_is_reached_through_the_proxy(name: str, environment: pytest.MonkeyPatch) -> None:
    with listening() as proxy:
        environment.setenv("http_proxy", proxy.url)
        CLIENTS[name]("http://server.example:8080")
    assert proxy.targets
    assert all(target.startswith("http://server.example:8080/") for target in proxy.targets)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("name", CLIENTS)
def test_this_machine_is_reached_around_the_proxy(name: str, host: str, environment: pytest.MonkeyPatch) -> None:
    with listening() as proxy, listening() as server:
        environment.setenv("http_proxy", proxy.url)
        environment.setenv("all_proxy", proxy.url)
        CLIENTS[name](server.url.replace("127.0.0.1", host))
    assert proxy.targets == []
    assert server.targets
    assert all(target.startswith("/") for target in server.targets)


def test_the_health_of_started_programs_is_asked_around_the_proxy(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("http_proxy", "http://127.0.0.1:9")
    with listening() as server:
        assert answers(f"{server.url}/-/ready")


@pytest.mark.parametrize("name", [name for name in CLIENTS if name != "metering proxy"])
def test_credentials_of_netrc_are_used(
    name: str, environment: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    netrc = tmp_path_factory.mktemp("netrc") / "netrc"
    netrc.write_text("machine 127.0.0.1 login n password q\n")
    environment.setenv("NETRC", str(netrc))
    with listening() as server:
        CLIENTS[name](server.url)
    assert set(server.authorizations) == {"Basic bjpx"}


def test_an_api_key_wins_over_netrc(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login n password q\n")
    environment.setenv("NETRC", str(netrc))
    clock = SystemClock()
    with listening() as server:
        http = ModelServerHttp(server.url, clock, api_key="key")
        with http.post("/v1/chat/completions", {}, Seconds(clock.monotonic() + 5.0)) as reply:
            list(reply.chunks)
    assert server.authorizations == ["Bearer key"]


@pytest.mark.parametrize("name", CLIENTS)
def test_no_failure_shows_a_password(name: str, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    secret = "s3cr3t"
    if name == "metering proxy":
        with served(f"http://user:{secret}@127.0.0.1:9") as proxy:
            shown = requests.post(f"{proxy.url}/api/chat", json={"model": "m"}, timeout=5).text
    else:
        with pytest.raises((JoulebenchError, AssertionError)) as caught:
            CLIENTS[name](f"http://user:{secret}@127.0.0.1:9")
        shown = str(caught.value)
    assert "127.0.0.1:9" in shown or "refused" in shown
    assert secret not in shown + caplog.text
