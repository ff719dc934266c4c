"""Records the run that replay.py plays back: a real small model behind the metering proxy, on two simulated GPUs of which the
second overheats.

    python -m tests.dashboards_ui.record

takes four minutes, writes demo-run.om.xz and prints what to put into replay.py. Done again when the names of metrics change.
"""

from __future__ import annotations

import itertools
import json
import lzma
import math
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import yaml

from joulebench import Run
from joulebench.bench import embedded, suites
from joulebench.bench.agent import Agent, Outcome
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import SystemClock, wait_until
from joulebench.llm.client import OpenAIChat
from joulebench.llm.http import ModelServerHttp
from joulebench.stack.data_files import data_path
from joulebench.stack.native import NativeStack, Ports
from joulebench.stack.process import Program, free_port
from joulebench.units import Seconds
from tests.dashboards_ui.replay import RECORDED, RUN

SECONDS, AFTERWARDS = 190.0, 5.0
ROUNDS = 2
TASKS = ("read-note", "write-hello", "count-lines", "read-colour", "append-diary", "calculate")
WORKER = "bench-host"
HOT = ("--gpu-source=simulated", "--simulated.gpus=2", "--simulated.scenario=overheating", "--no-ollama")


class Scene:
    """The stack, the model and the proxy, each on ports of its own; names of hosts are put in when it is written down."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.ports, self._metrics, self._listen = Ports.free(), free_port(), free_port()
        model = stack.enter_context(embedded.EmbeddedModel())
        self._model = model.base_url.removeprefix("http://").removesuffix("/v1")
        targets = {"joulebench-proxy": f"127.0.0.1:{self._metrics}"}
        self.native = NativeStack(directory / "stack", self.ports, HOT, more_targets=targets)
        stack.enter_context(self.native)
        self._scrape_the_model_too(directory)
        proxy = Program(
            "proxy",
            [
                *(sys.executable, "-m", "joulebench.cli", "proxy", f"--upstream=http://{self._model}"),
                *(f"--listen=127.0.0.1:{self._listen}", f"--web.listen-address=127.0.0.1:{self._metrics}"),
                f"--exporter.url={self.native.exporter_url}",
            ],
            directory / "proxy.log",
            f"http://127.0.0.1:{self._metrics}/healthz",
        )
        proxy.start()
        stack.callback(proxy.stop)

    def _scrape_the_model_too(self, directory: Path) -> None:
        """Prometheus again, with the recommended job for llama.cpp."""
        self.native.named("prometheus").stop()
        (job,) = [
            job
            for job in yaml.safe_load(data_path("prometheus/model_servers.yml").read_text())["scrape_configs"]
            if job["job_name"] == "llamacpp"
        ]
        job["static_configs"] = [{"targets": [self._model], "labels": {"model": embedded.MODEL_NAME}}]
        config = directory / "stack/prometheus.yml"
        whole = yaml.safe_load(config.read_text())
        config.write_text(yaml.safe_dump({**whole, "scrape_configs": [*whole["scrape_configs"], job]}))
        self.native.named("prometheus").start()
        api = PrometheusApi(self.native.prometheus_url)
        scraped = 'count(up{job=~"joulebench|joulebench-pushgateway|llamacpp"} == 1) == 3'
        wait_until(lambda: bool(api.query(scraped)), SECONDS)
        api.close()

    def warm_up(self, clock: SystemClock) -> None:
        """The model's first prompt, which later ones share, takes many seconds."""
        model = OpenAIChat(
            ModelServerHttp(f"http://{self._model}/v1", clock), embedded.MODEL_NAME, clock, tool_mode="prompt", max_tokens=1
        )
        with suites.load("files").tasks[0].stage() as stage:
            model.reply(stage.opening(), stage.specs, lambda: None, Seconds(clock.monotonic() + SECONDS))

    def model_of(self, task: str, clock: SystemClock, *, native: bool) -> OpenAIChat:
        """``native``: the server is told the tools, and so is the proxy; a small model then does worse."""
        return OpenAIChat(
            ModelServerHttp(f"http://127.0.0.1:{self._listen}/run/{RUN}/task/{task}/v1", clock),
            embedded.MODEL_NAME,
            clock,
            tool_mode="native" if native else "prompt",
            max_tokens=80,
            extra=embedded.REQUEST_SETTINGS,
        )

    def hosts(self) -> Mapping[str, str]:
        known = {
            self.ports.exporter: 18347,
            self._metrics: 18348,
            self.ports.pushgateway: 9091,
            int(self._model.split(":")[1]): 8080,
        }
        return {f"127.0.0.1:{port}": f"{WORKER}:{usual}" for port, usual in known.items()}


def work(scene: Scene, directory: Path, clock: SystemClock, until: float) -> float:
    """The last moment to be shown (unix seconds): all tasks have ended and their energy is known, the run goes on."""
    suite = suites.load("files")
    run = Run(
        model=embedded.MODEL_NAME,
        suite=suite.name,
        run_id=RUN,
        worker=WORKER,
        runs_dir=directory / "runs",
        gateway_url=scene.native.gateway_url,
        prometheus_url=scene.native.prometheus_url,
        exporter_url=scene.native.exporter_url,
        planned_tasks=ROUNDS * len(TASKS),
    )
    with run:
        run.measure_idle()
        known = {spec.id: spec for spec in suite.tasks}
        for number, name in itertools.product(range(1, ROUNDS + 1), TASKS):
            if clock.monotonic() > until:
                break
            # As the run will call it: the proxy has no other way to know.
            task = name if number == 1 else f"{name}#{number}"
            outcome = Outcome(name)
            Agent(run, scene.model_of(quote(task), clock, native=number == ROUNDS), clock).work(known[name], outcome)
            print(f"{outcome.task_id}: {outcome.status} {outcome.reason}")  # noqa: T201
        threading.Event().wait(AFTERWARDS)
        return clock.unix()


def lines(api: PrometheusApi, start: float, end: float, hosts: Mapping[str, str]) -> Iterator[str]:
    """All but the fine scrape of the energy counter, which no dashboard reads."""
    found = api.query(f'{{job=~".+", job!="joulebench-energy"}}[{math.ceil(end - start)}s]', time=Seconds(end))
    for series in sorted(found, key=lambda one: sorted(one.labels.items())):
        labels = {name: hosts.get(value, value) for name, value in series.labels.items() if name != "__name__"}
        text = ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in sorted(labels.items()))
        for at, value in series.points:
            yield f"{series.labels['__name__']}{{{text}}} {value!r} {at:.3f}"
    yield "# EOF"


def main() -> None:
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        directory = Path(folder)
        scene = Scene(directory, stack)
        scene.warm_up(clock)
        start, begun = clock.unix(), clock.monotonic()
        end = work(scene, directory, clock, begun + SECONDS)
        api = PrometheusApi(scene.native.prometheus_url)
        stack.callback(api.close)
        text = "\n".join(lines(api, start, end, scene.hosts())) + "\n"
        RECORDED.write_bytes(lzma.compress(text.encode(), preset=9))
    print(f"{text.count(chr(10))} samples, {RECORDED.stat().st_size // 1000} kB; STRETCH = Stretch({start:.0f}, {end:.0f})")  # noqa: T201


if __name__ == "__main__":
    main()
