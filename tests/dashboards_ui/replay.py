"""A recorded run, played back by a real Prometheus: demo-run.om.xz has 200 s of a benchmark with a small real model on a host
with two simulated GPUs, of which the second overheats. Tokens, times and confidences in it are real, joules and degrees are not.
"""

from __future__ import annotations

import lzma
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from joulebench.stack import programs
from joulebench.stack.process import Program, free_port
from tests.dashboards_ui.answers import Stretch

RECORDED = Path(__file__).with_name("demo-run.om.xz")
STRETCH = Stretch(1796074849, 1796075049)
RUN, TASK = "demo-20261124", "append-diary#2"


@contextmanager
def replayed(directory: Path) -> Iterator[str]:
    """URL of a Prometheus with the recorded run and nothing else."""
    text = directory / "recorded.om"
    text.write_bytes(lzma.decompress(RECORDED.read_bytes()))
    promtool = programs.require("promtool")
    subprocess.run(
        [promtool, "tsdb", "create-blocks-from", "openmetrics", text, directory / "tsdb"], check=True, capture_output=True
    )
    (directory / "prometheus.yml").write_text("scrape_configs: []\n")
    url = f"http://127.0.0.1:{free_port()}"
    program = Program(
        "prometheus",
        [
            str(programs.require("prometheus")),
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'tsdb'}",
            "--storage.tsdb.retention.time=100y",
            # The recording has no marks of staleness: a series ends with its last sample.
            "--query.lookback-delta=6s",
            f"--web.listen-address={url.removeprefix('http://')}",
            "--log.level=warn",
        ],
        directory / "prometheus.log",
        f"{url}/-/ready",
    )
    program.start()
    try:
        yield url
    finally:
        program.stop()
