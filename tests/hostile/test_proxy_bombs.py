"""Bodies that grow when they are read: compressed requests and replies, endless lines, nested JSON, large numbers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import requests

from tests.benchmarks.process import resident_bytes
from tests.hostile.attacked_proxy import CHAT, STOP_SECONDS, attack, proxy_of_hostile_upstream
from tests.hostile.hostile_upstream import MEBIBYTE, REPLY, gzip_bomb


def test_compressed_requests(tmp_path: Path) -> None:
    bomb = gzip_bomb()
    with proxy_of_hostile_upstream(tmp_path / "log") as proxy:
        before = resident_bytes(proxy.process.pid)

        def post() -> None:
            got = requests.post(proxy.url + CHAT, data=bomb, headers={"Content-Encoding": "gzip"}, timeout=20)
            assert got.content == REPLY

        attack(proxy, "compressed requests", post)
        assert resident_bytes(proxy.process.pid) - before < 200 * MEBIBYTE
        # An honest one is read.
        body = gzip.compress(json.dumps({"model": "packed", "messages": []}).encode())
        requests.post(proxy.url + CHAT, data=body, headers={"Content-Encoding": "gzip"}, timeout=5)
        assert proxy.stop() < STOP_SECONDS


def test_compressed_replies(tmp_path: Path) -> None:
    with proxy_of_hostile_upstream(tmp_path / "log") as proxy:
        before = resident_bytes(proxy.process.pid)

        def read() -> None:
            with requests.post(proxy.url + CHAT, json={"model": "gzip bomb"}, stream=True, timeout=20) as got:
                assert len(got.raw.read(decode_content=False)) > MEBIBYTE // 2

        attack(proxy, "compressed replies", read)
        assert resident_bytes(proxy.process.pid) - before < 200 * MEBIBYTE
        assert proxy.value("unread_requests_total", cause="too_large") > 0
        assert proxy.stop() < STOP_SECONDS


def test_streams_whose_events_never_end(tmp_path: Path) -> None:
    with proxy_of_hostile_upstream(tmp_path / "log", "--add-logprobs", "2") as proxy:
        kinds = iter(["endless line", "data lines", "blank lines"] * 1000)

        def read() -> None:
            body = {"model": next(kinds), "stream": True, "stream_options": {"include_usage": True}}
            assert requests.post(proxy.url + CHAT, json=body, timeout=60).status_code == 200

        attack(proxy, "events without end", read)
        assert proxy.stop() < STOP_SECONDS


def test_large_and_nested_requests(tmp_path: Path) -> None:
    bodies = [
        b"[" * 2_000_000,
        b'{"a":' * 500_000,
        b'{"model":"m","messages":[' + b"1," * 4_000_000 + b"1]}",
        b'{"model":"m","tools":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"model":"m","tools":[' + b"{}," * 300_000 + b"{}]}",
        b'{"model":"m","n":1' + b"0" * 1_000_000 + b"}",
        b'{"model":"m","s":"' + b"\\ud800" * 300_000 + b'"}',
    ]
    with proxy_of_hostile_upstream(tmp_path / "log") as proxy:
        before = resident_bytes(proxy.process.pid)

        def post() -> None:
            for body in bodies:
                assert requests.post(proxy.url + CHAT, data=body, timeout=20).content == REPLY

        attack(proxy, "large and nested requests", post)
        assert resident_bytes(proxy.process.pid) - before < 300 * MEBIBYTE
        assert proxy.stop() < STOP_SECONDS
