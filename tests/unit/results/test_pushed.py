"""What was pushed is read once, however many scrapers wrote it into the store."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from joulebench import metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.results import queries
from joulebench.results.pushed import load_pushed_tasks
from joulebench.results.task import TaskKey

START = 1_700_000_000.0
Series = tuple[Mapping[str, str], float]


@contextmanager
def store(series: list[Series]) -> Iterator[PrometheusApi]:
    """Answers each query with the series of the one metric that it names."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            (query,) = parse_qs(urlsplit(self.path).query)["query"]
            (name,) = re.findall(r"\(([a-z_]+)\{", query)
            rows = [{"metric": labels, "value": [START, str(value)]} for labels, value in series if labels["__name__"] == name]
            body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": rows}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    api = PrometheusApi(f"http://127.0.0.1:{server.server_port}")
    try:
        yield api
    finally:
        api.close()
        server.shutdown()
        server.server_close()
        thread.join()


def pushed(prompt_tokens: int, sent: float, **added: str) -> list[Series]:
    group = {"job": "joulebench", "run_id": "r", "task_id": "t", "worker": "w", **added}
    return [
        ({"__name__": metrics.TASK_START.name, **group}, START),
        ({"__name__": metrics.TASK_SENT.name, **group}, sent),
        ({"__name__": queries.PUSH_TIME, **group}, sent - 0.25),
        ({"__name__": metrics.TASK_TOKENS.name, **group, "token": "prompt"}, prompt_tokens),
        ({"__name__": metrics.TASK_TOKENS.name, **group, "token": "cached_prompt"}, 5),
    ]


def test_a_pair_of_replicas_counts_tokens_once() -> None:
    with store([*pushed(400, START + 9, replica="a"), *pushed(400, START + 9, replica="b")]) as api:
        tasks = load_pushed_tasks(api, "r", START + 60, 3600)
    assert tasks[TaskKey("t", "w")].values.prompt_tokens == 405


def test_of_a_replica_that_missed_the_last_push_nothing_is_taken() -> None:
    for order in (1, -1):
        replicas = [pushed(100, START + 2, replica="z", instance="old"), pushed(400, START + 9, replica="b")][::order]
        with store([*replicas[0], *replicas[1]]) as api:
            (task,) = load_pushed_tasks(api, "r", START + 60, 3600).values()
        assert task.values.prompt_tokens == 405
        assert task.gateway_clock_offset == 0.25
