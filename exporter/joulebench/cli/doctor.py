"""``joulebench doctor``: can these results be believed?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from joulebench.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results", type=Path, metavar="RESULTS", help="directory with result_*.json, of our runner or of the MCPWorld client"
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    parser.add_argument("--strict", action="store_true", help="exit with 1 for warnings too")
    parser.add_argument("--idle-watts", type=float, metavar="W", help="idle power of all GPUs together (default: from the files)")
    parser.add_argument(
        "--limit-watts", type=float, metavar="W", help="power limit of all GPUs together (default: by the names of the cards)"
    )


def run(args: argparse.Namespace) -> int:
    """0 where nothing is wrong, 1 where a check failed (with --strict also where one warns)."""
    from joulebench.doctor.examine import examine
    from joulebench.doctor.finding import FAILURE, WARNING
    from joulebench.doctor.plausible import Given

    for name, value in (("--idle-watts", args.idle_watts), ("--limit-watts", args.limit_watts)):
        if value is not None and not 0 < value < 1e6:
            raise UserError(f"{name}: {value:g} is not a number of watts above 0")
    report = examine(args.results, Given(args.idle_watts, args.limit_watts))
    if args.json:
        print(json.dumps(report.data(), indent=2, allow_nan=False))  # noqa: T201
    else:
        for line in report.lines():
            print(line)  # noqa: T201
    return 1 if report.verdict in ((FAILURE, WARNING) if args.strict else (FAILURE,)) else 0
