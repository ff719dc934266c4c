"""``joulebench collect-metrics``: one task's rows in the summary and the metrics table of a suite."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--result", type=Path, metavar="FILE", help="result_*.json of the task, where there is one")
    parser.add_argument("--task-id", required=True, metavar="ID", help="whole id, such as vscode/task01_updateColorTheme")
    parser.add_argument("--log-dir", required=True, metavar="DIR", help="where the logs of the task lie; told in the tables")
    parser.add_argument("--summary", type=Path, required=True, metavar="FILE", help="table of status and reason")
    parser.add_argument("--metrics", type=Path, required=True, metavar="FILE", help="table of metrics")
    parser.add_argument(
        "--fallback-status",
        default="unknown",
        metavar="STATUS",
        help="status where no result tells one (default: %(default)s; 'success' becomes 'missing')",
    )
    parser.add_argument("--fallback-reason", default="", metavar="TEXT", help="reason where no result tells a status")


def run(args: argparse.Namespace) -> int:
    from joulebench.mcpworld.metrics_csv import Call, collect

    collect(
        Call(
            task_id=args.task_id,
            log_dir=args.log_dir,
            summary=args.summary,
            metrics=args.metrics,
            result=args.result,
            fallback_status=args.fallback_status,
            fallback_reason=args.fallback_reason,
        )
    )
    return 0
