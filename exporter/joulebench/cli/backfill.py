"""``joulebench backfill``: energy for the finished result files of a client that was not changed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from joulebench import settings


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="where the client logs; every result_*.json below it is read")
    parser.add_argument(
        "--prometheus-url", help=f"'none' uses logs of the monitor alone (default: {settings.DEFAULT_PROMETHEUS_URL})"
    )
    parser.add_argument(
        "--monitor-csv",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="log of monitor_gpu.py for what Prometheus did not see, and for the container; may be given several times"
        " (default: every gpu_metrics_*.csv below DIR)",
    )
    parser.add_argument("--instance", help="only GPUs of this scrape target, as its instance label has it")
    parser.add_argument(
        "--wait",
        type=float,
        default=15.0,
        metavar="SECONDS",
        help="for Prometheus to scrape what follows a session that has just ended (default: %(default)s)",
    )
    parser.add_argument("--dry-run", action="store_true", help="tell what would be done and write nothing")
    parser.add_argument("--quiet", action="store_true", help="show only files that are not all well")


def run(args: argparse.Namespace) -> int:
    """0 where every result has its energy, 1 where some could not get one."""
    from rich.console import Console

    from joulebench.clients.prometheus import PrometheusApi
    from joulebench.mcpworld.backfill import Options, backfill

    url = args.prometheus_url or settings.from_env(settings.ENV_PROMETHEUS_URL, settings.DEFAULT_PROMETHEUS_URL)
    api = None if url == settings.NO_URL else PrometheusApi(url)
    try:
        report = backfill(Options(args.directory, args.monitor_csv, args.instance, args.dry_run, args.wait), api)
    finally:
        if api is not None:
            api.close()
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
    for one in report.outcomes:
        if args.quiet and one.quality == "ok":
            continue
        joules = "-" if one.joules is None else f"{one.joules:,.1f} J"
        path = one.path.relative_to(args.directory) if args.directory.is_dir() else one.path
        console.print(f"{one.status:<12} {joules:>12}  {path}  {' '.join(one.reasons)}".rstrip(), markup=False)
    for note in report.notes:
        console.print(f"note: {note}", markup=False)
    counts = {one.status: report.count(one.status) for one in report.outcomes}
    told = ", ".join(f"{number} {status.replace('_', ' ')}" for status, number in sorted(counts.items()))
    console.print(f"{len(report.outcomes)} files: {told}" + (" (dry run: nothing was written)" if args.dry_run else ""))
    return 0 if report.all_measured else 1
