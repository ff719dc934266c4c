"""The Prometheus client against servers that behave, are coming up, break off, or talk nonsense."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from joulebench.clients.prometheus import PrometheusApi
from joulebench.errors import PrometheusError, UserError
from joulebench.units import Seconds

Answer = tuple[int, str]


class Served:
    """What was asked, and what the next answers are; the last one repeats."""

    def __init__(self, answers: list[Answer], cut: int = 0) -> None:
        self.answers, self.cut = answers, cut
        self.queries: list[dict[str, list[str]]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""


@contextmanager
def serving(*answers: Answer, cut: int = 0) -> Iterator[Served]:
    """``cut``: bytes of the body that are promised and not sent."""
    served = Served(list(answers), cut)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.queries.append(parse_qs(urlsplit(self.path).query))
            served.headers.append(dict(self.headers))
            status, text = served.answers[0] if len(served.answers) == 1 else served.answers.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text) + served.cut))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Time:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def unix(self) -> Seconds:
        return Seconds(self.now)

    def monotonic(self) -> Seconds:
        return Seconds(self.now)

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@contextmanager
def client(url: str, patience: float = 0.0, time: Time | None = None) -> Iterator[PrometheusApi]:
    time = time or Time()
    api = PrometheusApi(url, timeout=2.0, patience=patience, clock=time, wait=time.wait)
    try:
        yield api
    finally:
        api.close()


def success(kind: str, result: Any, **more: Any) -> Answer:
    return 200, json.dumps({"status": "success", "data": {"resultType": kind, "result": result}, **more})


def test_a_range_selector_gives_samples_with_their_own_times() -> None:
    rows = [{"metric": {"__name__": "a", "gpu": "0"}, "values": [[1.5, "2"], [2.5, "3.25"]]}]
    with serving(success("matrix", rows)) as served, client(served.url) as api:
        (series,) = api.query("a[1001ms]", 3.0004)
    assert series.labels == {"__name__": "a", "gpu": "0"}
    assert series.points == [(1.5, 2.0), (2.5, 3.25)]
    asked = {name: values[0] for name, values in served.queries[0].items()}
    assert asked == {
        "query": "a[1001ms]",
        "time": "3.000",
        "max_source_resolution": "0s",
        "nocache": "1",
        "latency_offset": "0",
        "partial_response": "false",
    }
    assert served.headers[0]["Accept-Encoding"] == "identity"


def test_repeated_and_unordered_timestamps_are_one_series_in_order() -> None:
    rows = [{"metric": {}, "values": [[2, "1"], [1, "5"], [2, "7"]]}]
    with serving(success("matrix", rows)) as served, client(served.url) as api:
        assert api.query("a")[0].points == [(1, 5.0), (2, 7.0)]
    assert "time" not in served.queries[0]


def test_vectors_scalars_and_histograms() -> None:
    with serving(success("vector", [{"metric": {"a": "b"}, "value": [1, "+Inf"]}])) as served, client(served.url) as api:
        assert api.query("a")[0].points == [(1, float("inf"))]
    with serving(success("scalar", [1, "4"])) as served, client(served.url) as api:
        assert api.query("4")[0].points == [(1, 4.0)]
    with serving(success("matrix", [{"metric": {}, "histograms": []}])) as served, client(served.url) as api:
        assert api.query("h[1m]") == []


def test_warnings_are_kept_once() -> None:
    with serving(success("vector", [], warnings=["a store is away"])) as served, client(served.url) as api:
        api.query("a")
        api.query("a")
        assert list(api.warnings) == ["a store is away"]


def test_a_refused_query_is_told_with_its_reason_and_not_repeated() -> None:
    body = json.dumps({"status": "error", "errorType": "execution", "error": "too many samples"})
    with serving((422, body)) as served, client(served.url, patience=60.0) as api:
        with pytest.raises(PrometheusError, match=r"422, too many samples; the query was a\[1h\]"):
            api.query("a[1h]")
        assert len(served.queries) == 1


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>",
        '{"status": "success", "data": {"resultType": "vec',
        "[]",
        '{"status": "success"}',
        '{"status":"success","data":[]}',
    ],
)
def test_nonsense_is_an_error(body: str) -> None:
    with serving((200, body)) as served, client(served.url) as api, pytest.raises(PrometheusError):
        api.query("a")


@pytest.mark.parametrize(
    "data", [("string", [1, "a"]), ("matrix", [{"values": [[1, "2"]]}]), ("matrix", [{"metric": {}, "values": [[1, "x"]]}])]
)
def test_data_of_another_form_is_an_error(data: tuple[str, Any]) -> None:
    with serving(success(*data)) as served, client(served.url) as api, pytest.raises(PrometheusError, match="not an answer"):
        api.query("a")


def test_an_answer_that_breaks_off_is_an_error() -> None:
    with serving(success("vector", []), cut=10) as served, client(served.url) as api, pytest.raises(PrometheusError):
        api.query("a")


def test_a_server_that_is_coming_up_is_waited_for() -> None:
    time = Time()
    with serving((503, "starting"), (503, "starting"), success("vector", [])) as served, client(served.url, 5.0, time) as api:
        assert api.query("a") == []
    assert time.waits == [0.1, 0.2]


def test_patience_ends() -> None:
    time = Time()
    with serving((503, "starting")) as served, client(served.url, 5.0, time) as api:
        with pytest.raises(PrometheusError, match="HTTP 503"):
            api.query("a")
        assert len(served.queries) == len(time.waits) + 1
    assert 3.0 <= sum(time.waits) <= 5.0


def test_nobody_there() -> None:
    time = Time()
    with client("http://user:secret@127.0.0.1:9", 1.0, time) as api:
        assert api.ready() is False
        assert time.waits == []
        with pytest.raises(PrometheusError) as caught:
            api.query("a")
    assert len(time.waits) == 3
    assert "secret" not in str(caught.value)


def test_ready() -> None:
    with serving(success("vector", [{"metric": {}, "value": [1, "1"]}])) as served, client(served.url) as api:
        assert api.ready() is True


@pytest.mark.parametrize("make", [lambda: PrometheusApi("127.0.0.1:9090"), lambda: PrometheusApi("")])
def test_an_address_that_is_no_url(make: Callable[[], PrometheusApi]) -> None:
    with pytest.raises(UserError, match="--prometheus-url"):
        make()
