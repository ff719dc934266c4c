"""A firing alert goes through the real Alertmanager, by the repository's routing, to a receiver that listens here."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from joulebench.clock import SystemClock
from joulebench.stack.native import NativeStack, Ports
from tests.contract.sources import ROOT, rules
from tests.fakes.alert_receiver import AlertReceiver
from tests.needs import need_program

pytestmark = pytest.mark.e2e

OF_SEVERITY = {"critical": "JoulebenchGpuLost", "warning": "JoulebenchGpuThermalThrottling", "info": "JoulebenchGpuPowerCapped"}


def until(holds: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    clock = SystemClock()
    give_up = clock.monotonic() + seconds
    while not holds():
        assert clock.monotonic() < give_up, f"never saw: {what}"
        threading.Event().wait(0.05)


def alert(name: str, instance: str = "host:18347", gpu: str = "0") -> dict[str, Any]:
    """As Prometheus would send it, with labels and notes of the real rule."""
    (rule,) = [rule for rule in rules("alert") if rule["alert"] == name]
    where = {"alertname": name, "job": "joulebench", "instance": instance, "gpu": gpu}
    return {"labels": {**where, **rule["labels"]}, "annotations": rule["annotations"]}


def test_alerts_reach_the_receiver_of_their_severity_and_a_lost_gpu_silences_its_stale_counter(tmp_path: Path) -> None:
    need_program("alertmanager")
    with AlertReceiver() as receiver:
        config = receiver.write_config(ROOT / "prometheus/alertmanager.yml", tmp_path / "alertmanager.yml")
        stack = NativeStack(tmp_path, Ports.free(), alertmanager_config=config)
        (tmp_path / "logs").mkdir()
        manager = stack.alertmanager().start()
        try:
            post(stack.alertmanager_url, [alert(name) for name in OF_SEVERITY.values()])
            until(lambda: bool(receiver.told(OF_SEVERITY["critical"])), "the lost GPU, before what it explains")
            post(stack.alertmanager_url, [alert("JoulebenchEnergyCounterStale", gpu=gpu) for gpu in ("0", "1")])
            for severity in ("critical", "warning"):
                until(lambda name=OF_SEVERITY[severity]: bool(receiver.told(name)), severity)  # type: ignore[misc]
            until(lambda: bool(receiver.told("JoulebenchEnergyCounterStale")), "the stale counter of the GPU that answers")
            routed = {a["labels"]["alertname"]: [r["name"] for r in a["receivers"]] for a in listed(stack.alertmanager_url)}
        finally:
            manager.stop()
    assert routed[OF_SEVERITY["critical"]] == routed[OF_SEVERITY["warning"]] == ["operators"]
    assert routed[OF_SEVERITY["info"]] == ["none"]
    assert not receiver.told(OF_SEVERITY["info"]), "info notifies nobody"
    stale = [a for n in receiver.told("JoulebenchEnergyCounterStale") for a in n.alerts if "Stale" in a["labels"]["alertname"]]
    assert {a["labels"]["gpu"] for a in stale} == {"1"}, "a lost GPU explains its stale counter"
    (lost,) = [a for a in receiver.told(OF_SEVERITY["critical"])[0].alerts if a["labels"]["alertname"] == "JoulebenchGpuLost"]
    assert "reset the GPU" in lost["annotations"]["description"], "the note says what to do"


def post(url: str, alerts: list[dict[str, Any]]) -> None:
    request = Request(f"{url}/api/v2/alerts", json.dumps(alerts).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def listed(url: str) -> list[dict[str, Any]]:
    with urlopen(f"{url}/api/v2/alerts", timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found
