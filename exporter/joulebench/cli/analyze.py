"""``joulebench analyze``: finished runs looked at together."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from joulebench.cli import analyze_limits
from joulebench.errors import UserError

if TYPE_CHECKING:
    from joulebench.analysis.prediction.records import TaskRecord

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
    failures = kinds.add_parser(
        "failures",
        help="how likely each task is to fail by the confidence of its calls, and what makes the model unsure",
        description="For each model a risk of failure for every task, predicted from other tasks, with AUROC, Brier, its skill"
        " and the reliability of the risks; confidence by tool and by task; the worst tool calls with their text. Refused where"
        " there are fewer than 50 failures. Needs scikit-learn: " + INSTALL.replace("%", "%%"),
    )
    failures.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="directories of runs, as runs/RUN_ID")
    failures.add_argument(
        "--format",
        choices=("text", "json", "csv"),
        default="text",
        help="csv: failure_risk of each task, to be joined on run_id and task_id (default: %(default)s)",
    )
    analyze_limits.add(kinds)


def run(args: argparse.Namespace) -> int:
    """0 where something could be said of every model, 1 where a model was refused."""
    if args.analysis in analyze_limits.HELP:
        return analyze_limits.run(args)
    from joulebench.analysis.prediction import records

    for directory in args.runs:
        if not directory.is_dir():
            raise UserError(f"{directory} is no directory; give the directory of a run, as runs/RUN_ID")
    tasks = records.read(args.runs)
    if args.analysis == "failures":
        return _failures(tasks, args.format)
    try:
        from joulebench.analysis.prediction import confidence
        from joulebench.analysis.prediction import show_confidence as show
    except ImportError as error:
        raise UserError(f"the analysis needs {error.name}; install it with: {INSTALL}") from error
    found = confidence.reports(tasks)
    print(json.dumps([asdict(one) for one in found], indent=1) if args.format == "json" else show.as_text(found))  # noqa: T201
    if args.plot:
        from joulebench.results.files import write_whole

        write_whole(args.plot, show.as_svg(found))
    return 1 if any(one.refused for one in found) else 0


def _failures(tasks: Sequence[TaskRecord], format_: str) -> int:
    try:
        from joulebench.analysis.prediction import failures, show_failures
        from joulebench.analysis.prediction.doubts import doubts
    except ImportError as error:
        raise UserError(f"the analysis needs {error.name}; install it with: {INSTALL}") from error
    found = failures.predictions(tasks)
    match format_:
        case "csv":
            print(show_failures.as_csv(found), end="")  # noqa: T201
        case "json":
            print(json.dumps(show_failures.as_values(found, doubts(tasks)), indent=1, allow_nan=False))  # noqa: T201
        case _:
            print(show_failures.as_text(found, doubts(tasks)))  # noqa: T201
    return 1 if any(one.refused for one in found) else 0
