"""``joulebench analyze``: finished runs looked at together."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from joulebench.commands import analyze_limits
from joulebench.errors import UserError

INSTALL = "pip install 'joulebench[analysis]'"


def configure(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="analysis", required=True, metavar="ANALYSIS")
    confidence = kinds.add_parser(
        "confidence",
        help="whether the confidence of tool calls predicts that they fail",
        description="For each model, every confidence measure against every outcome: AUROC with its interval, Brier, ECE, AURC."
        " Refused where there are fewer than 50 failures. Needs scikit-learn: " + INSTALL.replace("%", "%%"),
    )
    confidence.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="directories of runs, as runs/RUN_ID")
    confidence.add_argument("--format", choices=("text", "json"), default="text", help="default: %(default)s")
    confidence.add_argument("--plot", type=Path, metavar="FILE.svg", help="write reliability diagrams there")
    analyze_limits.add(kinds)


def run(args: argparse.Namespace) -> int:
    """0 where something could be said of every model, 1 where a model was refused."""
    if args.analysis in analyze_limits.HELP:
        return analyze_limits.run(args)
    from joulebench.analysis import records

    for directory in args.runs:
        if not directory.is_dir():
            raise UserError(f"{directory} is no directory; give the directory of a run, as runs/RUN_ID")
    tasks = records.read(args.runs)
    try:
        from joulebench.analysis import confidence, show
    except ImportError as error:
        raise UserError(f"the analysis needs {error.name}; install it with: {INSTALL}") from error
    found = confidence.reports(tasks)
    print(json.dumps([asdict(one) for one in found], indent=1) if args.format == "json" else show.as_text(found))  # noqa: T201
    if args.plot:
        from joulebench.results.files import write_whole

        write_whole(args.plot, show.as_svg(found))
    return 1 if any(one.refused for one in found) else 0
