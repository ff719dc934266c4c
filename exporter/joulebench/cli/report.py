"""``joulebench report``: finished runs as one page, or the same numbers as JSON, Markdown or CSV."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from joulebench import prices
from joulebench.clock import SystemClock
from joulebench.errors import PrometheusError

if TYPE_CHECKING:
    from joulebench.analysis.runs import Run

ALLOW = ("suite", "simulated", "throttled", "overlap", "suspect")
"""As in analysis.compare, whose numpy the help does not need."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="directories of exported runs, as runs/RUN_ID")
    parser.add_argument(
        "--format", choices=("html", "json", "md", "csv"), default="html", help="html needs plotly (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="default: report.html in the first run's directory for html, else standard output",
    )
    parser.add_argument(
        "--prometheus-url",
        metavar="URL",
        help="power, utilisation and temperature of timelines as it stored them (default: means from the result files)",
    )
    parser.add_argument(
        "--prices.file", dest="prices_file", type=Path, metavar="FILE", help="default: prometheus/prices.yml where it is there"
    )
    parser.add_argument(
        "--utilisation",
        type=_share,
        default=0.25,
        metavar="SHARE",
        help="of its hours the machine is busy (default: %(default)s)",
    )
    parser.add_argument(
        "--allow",
        action="append",
        choices=ALLOW,
        default=[],
        help="compare although suites differ or only some joules are simulated, or count attempts that were throttled, overlapped"
        " by others or suspect; may be given again",
    )


def run(args: argparse.Namespace) -> int:
    """0 once written; what could not be compared is told in the report."""
    from joulebench.analysis import runs
    from joulebench.analysis.report import content, failures, findings, html, text
    from joulebench.results.files import write_whole

    found = [runs.read(directory, timelines=args.format == "html") for directory in args.runs]
    if args.prometheus_url and args.format == "html":
        found = _with_samples(found, args.prometheus_url)
    created = f"{datetime.fromtimestamp(SystemClock().unix(), tz=timezone.utc):%Y-%m-%d %H:%M} UTC"
    built = content.build(
        found,
        _prices(args.prices_file),
        args.utilisation,
        args.allow,
        created,
        findings=findings.read(args.runs),
        failures=failures.read(args.runs),
    )
    match args.format:
        case "html":
            written = html.page(built, content.timelines(found))
        case "json":
            written = text.as_json(built)
        case "md":
            written = text.as_markdown(built)
        case _:
            written = text.as_csv(built)
    out = args.out or (args.runs[0] / "report.html" if args.format == "html" else None)
    if out is None:
        print(written, end="")  # noqa: T201
        return 0
    write_whole(out, written)
    print("\n".join(built["verdict"]))  # noqa: T201
    print(f"written to {out}")  # noqa: T201
    return 0


def _with_samples(found: list[Run], url: str) -> list[Run]:
    """As they were where Prometheus fails, which is said: all else of a report does not need it."""
    from joulebench.analysis.report import samples
    from joulebench.clients.prometheus import PrometheusApi
    from joulebench.results.samples import fetch

    try:
        return samples.with_samples(found, fetch(PrometheusApi(url, patience=0.0), samples.windows(found)))
    except PrometheusError as error:
        print(f"timelines without stored samples: {error}", file=sys.stderr)  # noqa: T201
        return found


def _prices(path: Path | None) -> prices.PriceList:
    from joulebench.stack.data_files import data_path

    return prices.load(data_path("prometheus/prices.yml") if path is None else path)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share above 0 and up to 1, as 0.25")
    return share
