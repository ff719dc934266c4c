"""``joulebench annotate``: joules, bounds, throttling and every meter beside each row of a table with start and end times."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import click

from joulebench import settings
from joulebench.cli import options
from joulebench.clock import SystemClock
from joulebench.devices import DeviceChoice, DeviceName, parse_devices
from joulebench.errors import EnergyApiError, UserError
from joulebench.meters import MeterFile
from joulebench.parsing import printable_text

OBSERVED_SECONDS = 2.0
"""How far back an exporter is asked which GPUs the server uses."""


@click.command("annotate", short_help="Put joules beside each row of a table with start and end times.")
@click.argument("file", type=options.EXISTING_FILE, metavar="FILE")
@click.option("--start", required=True, metavar="COLUMN", help="Column with the start of each row; keys.with.dots in JSON.")
@click.option("--end", required=True, metavar="COLUMN", help="Column with the end.")
@click.option("-o", "--out", type=options.FILE, metavar="FILE", help="Where the table is written.  [default: in place]")
@options.prometheus_option("Prometheus with the samples of the exporter.")
@options.gpus_option("GPUs that served.  [default: all that Prometheus has]")
@options.server_option("The model server: the GPUs that it used in each row's window count, where Prometheus has them.")
@options.exporter_option("Exporter that is asked which GPUs --server uses now, where Prometheus knows them of no row.")
@click.option("--instance", metavar="LABEL", help="Only GPUs of this scrape target, by its instance label.")
@options.meters_option()
@click.option("--wait", type=options.SECONDS, default=15.0, help="Longest wait for the last scrape.")
def annotate_command(
    file: Path,
    start: str,
    end: str,
    out: Path | None,
    prometheus_url: str,
    gpus: str | None,
    server: str | None,
    exporter_url: str,
    instance: str | None,
    meters: MeterFile,
    wait: float,
) -> int:
    """Put joules, bounds, mean watts, throttling, devices and every meter beside each row of a table.

    FILE is a CSV, or JSON Lines with one object a line, of any harness. Its times are epoch seconds, milliseconds, microseconds
    or nanoseconds, or ISO 8601, which is detected and printed. Joules are those of 'joulebench export' on the same windows. A
    second run replaces the cells of the first. docs/METERS.md has the columns, and commands for AIPerf, guidellm and lm-eval.
    """
    from joulebench.cli.export import ProgressLine
    from joulebench.clients.prometheus import PrometheusApi
    from joulebench.results.annotate import AnnotateOptions, annotate

    if prometheus_url == settings.NO_URL:
        raise UserError("--prometheus-url: the samples are in Prometheus; give its address")
    given = AnnotateOptions(
        file,
        start,
        end,
        out,
        devices=parse_devices(gpus, "--gpus") if gpus else (),
        server=server or None,
        used_now=(lambda: _used_now(server, exporter_url)) if server else None,
        instance=instance,
        meters=meters.meters,
        emissions=meters.emissions,
        wait=wait,
    )
    with closing(PrometheusApi(prometheus_url)) as api, ProgressLine() as line:
        done = annotate(given, api, progress=line.show)
    first, last = done.times
    print(f"times: {first}" if first == last else f"times: start {first}, end {last}")
    for note in done.notes:
        print(printable_text(f"note: {note}"), file=sys.stderr)
    counted = ", ".join(f"{count:,} {quality}" for quality, count in sorted(done.qualities.items()))
    print(f"{done.path}: {done.rows:,} rows ({counted or 'none'})")
    return 0


def _used_now(server: str, exporter_url: str) -> tuple[DeviceName, ...]:
    """The GPUs that the server uses now. Raises UserError where no exporter sees it."""
    from joulebench.clients.exporter import ExporterGroup
    from joulebench.settings import Url
    from joulebench.units import Seconds

    if exporter_url == settings.NO_URL:
        raise UserError(
            f"--server: Prometheus does not know which GPUs {server} used; give --exporter-url while it runs, or --gpus"
        )
    urls = [Url.parse(word, "--exporter-url") for word in exporter_url.split(",")]
    clock = SystemClock()
    now = clock.unix()
    with closing(ExporterGroup(urls, DeviceChoice.from_settings(None, server, {}, "--server"), clock)) as group:
        try:
            answer = group.energy(Seconds(now - OBSERVED_SECONDS), now)
        except EnergyApiError as error:
            raise UserError(f"--server: {error}; start the exporter, or name the GPUs with --gpus") from error
    if answer.basis != "observed":
        raise UserError(
            f"--server: Prometheus does not know which GPUs {server} used, and no exporter sees it use one now;"
            " start it, or name its GPUs with --gpus"
        )
    return tuple(DeviceName(None, gpu.uuid) for gpu in answer.gpus)
