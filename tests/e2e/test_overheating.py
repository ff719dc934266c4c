"""A GPU that overheats on schedule is noticed: from the throttled clock to the notification, through all the real programs."""

from __future__ import annotations

import threading

import pytest

from joulebench import catalogue as c
from joulebench.clients.prometheus_api import PrometheusApi
from joulebench.clock import SystemClock
from tests.fakes.overheating import OverheatingScene

pytestmark = [pytest.mark.e2e, pytest.mark.scene]

ALERT = "JoulebenchGpuThermalThrottling"
PATIENCE = 120.0
LATEST = 90.0


def test_the_alert_on_heat_reaches_the_receiver_within_90_seconds_of_the_onset(overheating: OverheatingScene) -> None:
    api, clock = PrometheusApi(overheating.stack.prometheus_url), SystemClock()
    give_up = clock.monotonic() + PATIENCE
    while not overheating.receiver.told(ALERT):
        assert clock.monotonic() < give_up, f"told until now: {overheating.receiver.notifications}"
        threading.Event().wait(0.5)
    notification = overheating.receiver.told(ALERT)[0]
    (series,) = api.query(f'{c.GPU_THROTTLE_SECONDS.name}{{job="joulebench", gpu="1", reason="hw_thermal"}}[30m]')
    onset = next(at for at, seconds in series.points if seconds > 0)
    print(f"told {notification.at - onset:.1f} s after the onset")  # noqa: T201
    assert 30 < notification.at - onset < LATEST
    (alert,) = [alert for alert in notification.alerts if alert["labels"]["alertname"] == ALERT]
    assert alert["labels"]["gpu"] == "1", "the other GPU is well"
    assert "improve cooling" in alert["annotations"]["description"]
    healthy = api.query(f'max_over_time({c.GPU_THROTTLE_SECONDS.name}{{job="joulebench", gpu="0"}}[30m]) > 0')
    assert healthy == []
