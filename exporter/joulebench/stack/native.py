"""Prometheus, Pushgateway, Alertmanager and the exporter as plain processes on loopback, configured by Joulebench's own files.

Everything they write lies in one folder. Only processes that were started here are ever stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from joulebench.clock import wait_until
from joulebench.errors import ProcessError, UserError
from joulebench.stack import programs
from joulebench.stack.data_files import data_path
from joulebench.stack.process import Program, free_port
from joulebench.stack.prometheus_config import write_readdressed

FIRST_SCRAPE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Ports:
    prometheus: int
    pushgateway: int
    alertmanager: int
    exporter: int

    @classmethod
    def free(cls) -> Ports:
        return cls(free_port(), free_port(), free_port(), free_port())


@dataclass
class NativeStack:
    """``exporter_flags`` go to ``joulebench exporter``; ``exporter_environment`` is added to its environment.

    ``with_exporter=False`` leaves the exporter out; its jobs are then still configured, so that a test can start one on
    ``ports.exporter`` when it likes. ``alertmanager_config``: another file than the repository's, with receivers of its own.
    ``more_targets``: HOST:PORT by job of prometheus.yml, for what is not started here, such as a proxy; it is scraped whenever
    it is there. ``optional``: programs whose absence or failed start is not an error; ``absent`` then says why, by name.
    """

    directory: Path
    ports: Ports
    exporter_flags: Sequence[str] = ()
    exporter_environment: Mapping[str, str] = field(default_factory=dict)
    with_exporter: bool = True
    with_alertmanager: bool = True
    alertmanager_config: Path | None = None
    more_targets: Mapping[str, str] = field(default_factory=dict)
    optional: Collection[str] = ()
    absent: dict[str, str] = field(default_factory=dict)
    started: list[Program] = field(default_factory=list)

    @property
    def prometheus_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.prometheus}"

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.pushgateway}"

    @property
    def alertmanager_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.alertmanager}"

    @property
    def exporter_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.exporter}"

    def __enter__(self) -> NativeStack:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> NativeStack:
        """Start all, each awaited. Whatever had been started is stopped again when one fails."""
        self.directory = self.directory.resolve()
        (self.directory / "logs").mkdir(parents=True, exist_ok=True)
        planned = {"pushgateway": self.pushgateway}
        if self.with_exporter:
            planned["exporter"] = self.exporter
        if self.with_alertmanager:
            planned["alertmanager"] = self.alertmanager
        # Last: its configuration names those that are running.
        planned["prometheus"] = self.prometheus
        try:
            for name, program in planned.items():
                self._start(name, program)
            if self.runs("prometheus"):
                self._await_first_scrapes()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self, name: str, program: Callable[[], Program]) -> None:
        try:
            self.started.append(program().start())
        except (ProcessError, UserError) as error:
            if name not in self.optional:
                raise
            self.absent[name] = str(error)

    def runs(self, name: str) -> bool:
        """Whether ``start`` started the program."""
        return any(program.name == name for program in self.started)

    def _await_first_scrapes(self) -> None:
        """A run that began before the first scrape would have no energy to its left edge."""
        jobs = [
            *(["joulebench-pushgateway"] if self.runs("pushgateway") else []),
            *(["joulebench", "joulebench-energy"] if self.with_exporter else []),
        ]
        scraped = f'count(up{{job=~"{"|".join(jobs)}"}} == 1) == {len(jobs)}'
        # Its numpy would make every help of a command wait.
        from joulebench.clients.prometheus import PrometheusApi

        api = PrometheusApi(self.prometheus_url)
        try:
            if not wait_until(lambda: bool(api.query(scraped)), FIRST_SCRAPE_SECONDS):
                raise ProcessError(
                    f"Prometheus scraped nothing within {FIRST_SCRAPE_SECONDS:.0f} s; see {self.prometheus_url}/targets"
                )
        finally:
            api.close()

    def stop(self) -> None:
        while self.started:
            self.started.pop().stop()

    def named(self, name: str) -> Program:
        for program in self.started:
            if program.name == name:
                return program
        raise UserError(f"{name} is not part of this stack")

    def prometheus(self) -> Program:
        config = self.directory / "prometheus.yml"
        exporter = f"127.0.0.1:{self.ports.exporter}"
        with_alerts = self.with_alertmanager and "alertmanager" not in self.absent
        write_readdressed(
            data_path("prometheus/prometheus.yml"),
            config,
            {
                "joulebench": exporter,
                "joulebench-energy": exporter,
                **({} if "pushgateway" in self.absent else {"joulebench-pushgateway": f"127.0.0.1:{self.ports.pushgateway}"}),
                **self.more_targets,
            },
            alertmanager=f"127.0.0.1:{self.ports.alertmanager}" if with_alerts else None,
            rules=data_path("prometheus/rules"),
        )
        return self._program(
            "prometheus",
            [
                f"--config.file={config}",
                f"--storage.tsdb.path={self.directory / 'prometheus-data'}",
                f"--web.listen-address=127.0.0.1:{self.ports.prometheus}",
                "--log.level=warn",
            ],
            f"{self.prometheus_url}/-/ready",
        )

    def pushgateway(self) -> Program:
        return self._program(
            "pushgateway",
            [
                f"--web.listen-address=127.0.0.1:{self.ports.pushgateway}",
                f"--persistence.file={self.directory / 'pushgateway.data'}",
                "--persistence.interval=1s",
                "--log.level=warn",
            ],
            f"{self.gateway_url}/-/ready",
        )

    def alertmanager(self) -> Program:
        return self._program(
            "alertmanager",
            [
                f"--config.file={(self.alertmanager_config or data_path('prometheus/alertmanager.yml')).resolve()}",
                f"--storage.path={self.directory / 'alertmanager-data'}",
                f"--web.listen-address=127.0.0.1:{self.ports.alertmanager}",
                "--cluster.listen-address=",
                "--log.level=warn",
            ],
            f"{self.alertmanager_url}/-/ready",
        )

    def exporter(self) -> Program:
        argv = [
            sys.executable,
            "-m",
            "joulebench.cli",
            "exporter",
            f"--web.listen-address=127.0.0.1:{self.ports.exporter}",
            f"--prices.file={data_path('prometheus/prices.yml')}",
            *self.exporter_flags,
        ]
        return Program("exporter", argv, self._log("exporter"), f"{self.exporter_url}/healthz", self.exporter_environment)

    def _program(self, name: str, flags: Sequence[str], ready_url: str) -> Program:
        executable = programs.require(name)
        return Program(
            name,
            [str(executable), *flags],
            self._log(name),
            ready_url,
            working_directory=programs.working_directory(executable),
        )

    def _log(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"
