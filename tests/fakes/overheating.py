"""The scene of a GPU that gets too hot: the real exporter, Prometheus and Alertmanager, with a receiver that listens here.

It takes more than a minute until the alert may fire. So it plays in the background of a test session, from its start on, and the
test that looks at it comes last.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from joulebench.stack import programs
from joulebench.stack.native import NativeStack, Ports
from tests.fakes.alert_receiver import AlertReceiver


class OverheatingScene:
    def __init__(self, directory: Path) -> None:
        self.receiver = AlertReceiver()
        config = self.receiver.write_config(programs.checkout_file("prometheus/alertmanager.yml"), directory / "alertmanager.yml")
        flags = ("--gpu-source=simulated", "--simulated.gpus=2", "--simulated.scenario=overheating", "--no-ollama")
        self.stack = NativeStack(directory / "stack", Ports.free(), flags, alertmanager_config=config)
        self._open = ExitStack()

    def start(self) -> None:
        self._open.enter_context(self.receiver)
        self._open.enter_context(self.stack)

    def stop(self) -> None:
        self._open.close()
