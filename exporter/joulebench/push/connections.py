"""From addresses to the threads of a run, and their orderly end: energies first, then pushes, then acknowledgements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from joulebench import settings
from joulebench.clients.exporter import ExporterApi
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clients.pushgateway import Pushgateway
from joulebench.clock import Clock
from joulebench.push.acks import AckReader, InstantQuery
from joulebench.push.energy import EnergyAsker, NoEnergyQuestions
from joulebench.push.idle import IdleMeter
from joulebench.push.journal import Journal
from joulebench.push.pusher import Pusher
from joulebench.push.recorder import EnergyQuestions, NoPushes, Pushes, Recorder
from joulebench.push.report import PushReport
from joulebench.push.state import RunState

NOTHING_PUSHED = PushReport(0, 0, 0, groups_left=0, unpushed=0, reasons=())
ENERGY_DRAIN = 3.0
QUERY_TIMEOUT = 5.0


class Connections:
    """Opened once. An address is None where there is no such program."""

    def __init__(self, gateway_url: str | None, prometheus_url: str | None, exporter_url: str | None) -> None:
        self._gateway_url = gateway_url
        self._prometheus_url = prometheus_url
        self._exporter_url = exporter_url
        self._pusher: Pusher | None = None
        self._asker: EnergyAsker | None = None
        self._idle: IdleMeter | None = None

    @classmethod
    def from_settings(cls, gateway_url: str | None, prometheus_url: str | None, exporter_url: str | None) -> Connections:
        """Argument first, environment second, loopback last; ``none`` is for a program that is not there. Raises UserError on
        what is no URL."""
        return cls(
            _optional(gateway_url, "gateway_url", settings.ENV_GATEWAY_URL, settings.DEFAULT_GATEWAY_URL),
            _optional(prometheus_url, "prometheus_url", settings.ENV_PROMETHEUS_URL, settings.DEFAULT_PROMETHEUS_URL),
            _optional(exporter_url, "exporter_url", settings.ENV_EXPORTER_URL, settings.DEFAULT_EXPORTER_URL),
        )

    def open(self, clock: Clock, identity: Mapping[str, str], journal: Journal, run: RunState) -> tuple[Pushes, EnergyQuestions]:
        def count_failure() -> None:
            with run as totals:
                totals.push_failures += 1

        pushes: Pushes = NoPushes()
        if self._gateway_url is not None:
            acks = AckReader(_instant_query(self._prometheus_url), identity) if self._prometheus_url else None
            pushes = self._pusher = Pusher(
                Pushgateway(self._gateway_url), clock, identity, acks=acks, on_failure=count_failure, sync=journal.sync
            )
            self._pusher.start()
        if self._exporter_url is None:
            return pushes, NoEnergyQuestions(pushes)
        asker = self._asker = EnergyAsker(ExporterApi(self._exporter_url), journal, pushes)
        asker.start()
        return pushes, asker

    def idle_meter(self, clock: Clock, journal: Journal) -> IdleMeter:
        meter = self._idle = IdleMeter(self._exporter_url, clock, journal)
        return meter

    def close(self, recorder: Recorder, drain: float) -> dict[str, object]:
        """Waits at most ``drain`` seconds for what is still on its way; the fields of PUSH_STATE."""
        start = recorder.clock.monotonic()
        if self._asker is not None:
            self._asker.close(min(drain, ENERGY_DRAIN))
        recorder.pushes.finished(recorder.run_group)
        unanswered = None if self._asker is None else self._asker.unanswered
        report = NOTHING_PUSHED
        if self._pusher is not None:
            report = self._pusher.close(max(0.0, drain - (recorder.clock.monotonic() - start)))
        return {
            "pushes": report.pushes,
            "failures": report.failures,
            "groups_acknowledged": report.acknowledged,
            "groups_left": report.groups_left,
            "groups_unpushed": report.unpushed,
            "windows_without_energy": unanswered,
            "reasons": [
                *report.reasons,
                *([f"exporter: {self._asker.error}"] if self._asker and unanswered else []),
                *([f"idle power: {self._idle.reason}"] if self._idle and self._idle.reason else []),
            ],
        }


def _address(given: str | None, setting: str, variable: str, default: str) -> str:
    if given is not None:
        return settings.http_url(given, setting)
    return settings.http_url(settings.from_env(variable, default), variable)


def _optional(given: str | None, setting: str, variable: str, default: str) -> str | None:
    value = given if given is not None else settings.from_env(variable, default)
    return None if value == settings.NO_URL else _address(given, setting, variable, default)


def _instant_query(url: str) -> InstantQuery:
    api = PrometheusApi(url, timeout=QUERY_TIMEOUT, patience=0.0)

    def ask(expression: str) -> Iterator[tuple[Mapping[str, str], float]]:
        return ((series.labels, series.points[-1][1]) for series in api.query(expression) if series.points)

    return ask
