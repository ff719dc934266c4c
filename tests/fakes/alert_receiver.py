"""What stands behind a webhook receiver of Alertmanager: keeps each notification, and the repository's routing with it inside."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import yaml

from joulebench.clock import SystemClock


@dataclass(frozen=True)
class Notification:
    """``at``: unix time of its arrival. ``alerts``: as Alertmanager sends them, each with status, labels and annotations."""

    at: float
    receiver: str
    alerts: tuple[Mapping[str, Any], ...]

    def names(self, status: str = "firing") -> list[str]:
        return [alert["labels"]["alertname"] for alert in self.alerts if alert["status"] == status]


class AlertReceiver:
    def __init__(self) -> None:
        self.notifications: list[Notification] = []
        clock, kept = SystemClock(), self.notifications

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                kept.append(Notification(clock.unix(), body["receiver"], tuple(body["alerts"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """A test's output is no access log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> AlertReceiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def told(self, name: str, status: str = "firing") -> list[Notification]:
        return [notification for notification in [*self.notifications] if name in notification.names(status)]

    def write_config(self, source: Path, target: Path, *, hurried: bool = True) -> Path:
        """``source`` with this receiver's address for each receiver that is to be notified, and short waits if ``hurried``."""
        config = copy.deepcopy(yaml.safe_load(source.read_text(encoding="utf-8")))
        if hurried:
            config["route"].update(group_wait="200ms", group_interval="1s")
        for receiver in config["receivers"]:
            if receiver["name"] != "none":
                receiver["webhook_configs"] = [{"url": self.url, "send_resolved": True}]
        target.write_text(yaml.safe_dump(config), encoding="utf-8")
        return target
