"""No request target, method or Host header makes the proxy connect anywhere but to its model server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.fakes.raw_upstream import RawUpstream
from tests.hostile.attacked_proxy import CHAT, answer_chat, attacked_proxy

METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "CONNECT", "TRACE", "PROPFIND", "get", "X" * 300)


class Canary:
    """A server that nobody should reach; ``visits`` counts connections."""

    def __init__(self) -> None:
        self.visits = 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.socket.getsockname()[1])

    def run(self) -> None:
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            self.visits += 1
            peer.close()


@contextmanager
def canary() -> Iterator[Canary]:
    watching = Canary()
    thread = threading.Thread(target=watching.run, daemon=True)
    thread.start()
    try:
        yield watching
    finally:
        watching.socket.shutdown(socket.SHUT_RDWR)
        watching.socket.close()
        thread.join(5)


def targets(port: int) -> list[str]:
    host = f"127.0.0.1:{port}"
    return [
        host,
        f"@{host}",
        f"@{host}/v1/models",
        f"http://{host}/v1/models",
        f"http://user:pass@{host}/",
        f"https://{host}/",
        f"//{host}/v1/models",
        f"/@{host}/",
        f"/\\@{host}/",
        f"/#@{host}/",
        f"/?@{host}",
        f"/run/r/task/t@{host}/v1/models",
        f"/run/r@{host}",
        f"/run/r/@{host}/",
        f"/run/r//{host}/v1/models",
        f"/..//{host}/",
        f":{port}/",
        f".{host}/",
        "*",
        "",
        "/\x7f",
        "/%00",
        f"/%0d%0aHost:%20{host}/",
    ]


def test_no_form_of_a_target_leads_anywhere_else(tmp_path: Path) -> None:
    with canary() as watching, RawUpstream(answer_chat) as upstream:
        with attacked_proxy(upstream.url, tmp_path / "log") as proxy:
            for method in METHODS:
                for target in targets(watching.port):
                    head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{watching.port}\r\nContent-Length: 0\r\n\r\n"
                    answer = proxy.send(head.encode("latin-1"))
                    status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 400
                    if not target.startswith("/") or method in ("CONNECT", "TRACE", "PROPFIND", "get"):
                        assert status == 400, (method, target, answer)
            assert requests.get(f"{proxy.url}/v1/models", timeout=5).status_code == 200
            assert proxy.stop() < 5.0
        assert watching.visits == 0
        # What went upstream is a path, with the Host that the client gave: a server that checks it can.
        assert all(request.line.split(" ")[1].startswith("/") for request in upstream.requests)
        hosts = {request.headers["Host"] for request in upstream.requests[:-1]}
        assert hosts == {f"127.0.0.1:{watching.port}"}
        assert upstream.requests[-1].headers["Host"] == upstream.url.removeprefix("http://")


def test_the_upstreams_password_goes_to_it_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with RawUpstream(answer_chat) as upstream:
        address = upstream.url.replace("http://", "http://user:sesame@")
        with attacked_proxy(address, log) as proxy:
            requests.post(proxy.url + CHAT, json={"model": "m"}, timeout=5)
            requests.post(proxy.url + CHAT, json={"model": "m"}, headers={"Authorization": "Bearer own"}, timeout=5)
            proxy.stop()
        assert [request.headers["Authorization"] for request in upstream.requests] == ["Basic dXNlcjpzZXNhbWU=", "Bearer own"]
    with attacked_proxy(address, tmp_path / "log2") as proxy:
        answer = requests.post(proxy.url + CHAT, json={"model": "m"}, timeout=5)
        proxy.stop()
    assert answer.status_code == 502
    for text in (answer.text, log.read_text(), (tmp_path / "log2").read_text()):
        assert "sesame" not in text
        assert "dXNlcjpzZXNhbWU" not in text
