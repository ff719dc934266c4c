"""A real Prometheus filled with samples of known times and values, by ``promtool tsdb create-blocks-from openmetrics``."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from joulebench.metrics import Metric
from joulebench.stack import programs
from joulebench.stack.process import Program, free_port
from tests.needs import need_program

START = 1_700_000_000.0
"""Tasks of the tests begin here: a whole second, so that timestamps in milliseconds are exact."""


class Store:
    """Samples by series, until they are written."""

    def __init__(self) -> None:
        self._samples: defaultdict[str, dict[tuple[tuple[str, str], ...], dict[float, float]]] = defaultdict(dict)

    def add(self, metric: Metric | str, labels: Mapping[str, str], at: float, value: float, series: str | None = None) -> None:
        name = series or (metric if isinstance(metric, str) else metric.name)
        if isinstance(metric, Metric):
            assert name in metric.series_names
        self._samples[name].setdefault(tuple(sorted(labels.items())), {})[round(at, 3)] = value

    def openmetrics(self) -> Iterator[str]:
        for name, by_labels in self._samples.items():
            for labels, points in by_labels.items():
                inner = ",".join(f'{label}="{value}"' for label, value in labels)
                for at, value in sorted(points.items()):
                    yield f"{name}{{{inner}}} {value!r} {at:.3f}\n"
        yield "# EOF\n"


@contextmanager
def filled_prometheus(directory: Path, *fills: Callable[[Store], None]) -> Iterator[str]:
    """The URL of a Prometheus with the samples that each of ``fills`` adds; the test is skipped where there is no Prometheus."""
    for name in ("prometheus", "promtool"):
        need_program(name)
    store = Store()
    for fill in fills:
        fill(store)
    with prometheus(directory, store.openmetrics()) as url:
        yield url


@contextmanager
def prometheus(directory: Path, samples: Iterable[str]) -> Iterator[str]:
    """The URL of a Prometheus that holds exactly these samples and scrapes nothing."""
    text, data, config = directory / "samples.om", directory / "data", directory / "prometheus.yml"
    with text.open("w", encoding="utf-8") as out:
        out.writelines(samples)
    config.write_text("scrape_configs: []\n", encoding="utf-8")
    promtool = str(programs.require("promtool"))
    made = subprocess.run(
        [promtool, "tsdb", "create-blocks-from", "openmetrics", "--quiet", str(text), str(data)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    port = free_port()
    server = Program(
        "prometheus",
        [
            str(programs.require("prometheus")),
            f"--config.file={config}",
            f"--storage.tsdb.path={data}",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ],
        directory / "prometheus.log",
        f"http://127.0.0.1:{port}/-/ready",
    )
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()
