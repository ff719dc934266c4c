"""``joulebench compare``: runs and models against each other, task by task."""

from __future__ import annotations

import argparse
import json

ALLOW = ("suite", "simulated", "throttled", "overlap", "suspect")
"""As in analysis.compare, whose numpy the help does not need."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN[@MODEL]",
        help="directories of exported runs, as runs/RUN_ID; every model of a run is compared, or only the one named after @",
    )
    parser.add_argument(
        "--allow",
        action="append",
        choices=ALLOW,
        default=[],
        help="compare although suites differ or only some joules are simulated, or count attempts that were throttled, overlapped"
        " by others or suspect; may be given again",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """0 where all pairs were compared, whatever came out; 1 where a pair was refused."""
    from joulebench.analysis import runs, show_comparison
    from joulebench.analysis.compare import arms_of, compare, parsed

    found = [(runs.read(directory), model) for directory, model in map(parsed, args.runs)]
    comparison = compare(arms_of(found), args.allow)
    if args.format == "json":
        print(json.dumps(show_comparison.as_values(comparison), indent=1))  # noqa: T201
    else:
        print(show_comparison.as_text(comparison))  # noqa: T201
    return 1 if comparison.refused else 0
